"""The context of a call: what is taken from a carrier, what goes out, and that it ends."""

from __future__ import annotations

import asyncio

import pytest

from apibase.observability import call_context, correlation_id, outbound_headers, trace_ids

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

pytestmark = pytest.mark.req("R2.5", "R10.4")


def test_outside_of_a_call_there_is_no_context() -> None:
    assert trace_ids() == ("", "")
    assert correlation_id() == ""
    assert outbound_headers() == {}


def test_a_carriers_trace_goes_out_as_it_came_in() -> None:
    with call_context({"traceparent": TRACEPARENT, "tracestate": "a=1,b=2", "x-correlation-id": "c7"}):
        assert trace_ids() == (TRACE, "00f067aa0ba902b7")
        assert outbound_headers() == {
            "traceparent": TRACEPARENT,
            "tracestate": "a=1,b=2",
            "x-correlation-id": "c7",
        }
    assert outbound_headers() == {}


def test_the_correlation_id_is_the_trace_id_where_nobody_set_one() -> None:
    with call_context({"traceparent": TRACEPARENT}):
        assert correlation_id() == TRACE
        assert outbound_headers()["x-correlation-id"] == TRACE


@pytest.mark.parametrize("traceparent", ["", "garbage", f"ff-{TRACE}-00f067aa0ba902b7-01", f"00-{TRACE}-{'0' * 16}-01"])
def test_a_trace_begins_where_the_carrier_has_none_that_is_valid(traceparent: str) -> None:
    seen = []
    for _ in range(2):
        with call_context({"traceparent": traceparent, "tracestate": "a=1"}):
            seen.append(trace_ids()[0])
            assert outbound_headers()["traceparent"].split("-")[1] == seen[-1]

    assert len({*seen, "", "0" * 32, TRACE}) == 5


def test_a_call_within_a_call_has_its_own_context_and_gives_the_outer_one_back() -> None:
    with call_context({"traceparent": TRACEPARENT, "x-correlation-id": "outer"}):
        with call_context({}):
            assert trace_ids()[0] != TRACE
            assert correlation_id() == trace_ids()[0]
        assert trace_ids()[0] == TRACE
        assert correlation_id() == "outer"


def test_an_exception_ends_the_context_too() -> None:
    with pytest.raises(RuntimeError), call_context({"traceparent": TRACEPARENT}):
        raise RuntimeError

    assert trace_ids() == ("", "")


async def test_a_task_started_within_a_call_belongs_to_it() -> None:
    async def look() -> str:
        await asyncio.sleep(0)
        return trace_ids()[0]

    with call_context({"traceparent": TRACEPARENT}):
        task = asyncio.create_task(look())

    assert await task == TRACE
