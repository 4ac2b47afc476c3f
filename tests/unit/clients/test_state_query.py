"""Queries: what the sidecar is asked, and what is made of its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from dapr.proto import api_v1

from apibase import NotSupported, Settings, Sidecar, StateManager
from apibase.clients.state import AllOf, AnyOf, Equal, Greater, LessOrEqual, NotEqual, OneOf, Sort
from tests.unit.clients.fake_state import FakeState

QUERIES = ("ETAG", "QUERY_API")


@pytest.fixture
async def dapr(settings: Settings) -> AsyncIterator[FakeState]:
    async with FakeState(settings.sidecar_address) as fake:
        fake.become("state.mongodb", *QUERIES)
        yield fake


@pytest.fixture
async def state(dapr: FakeState, settings: Settings) -> AsyncIterator[StateManager]:
    sidecar = Sidecar(settings)
    yield StateManager(sidecar, "statestore")
    await sidecar.close()


@pytest.mark.req("R4.6")
@pytest.mark.parametrize(
    ("where", "asked"),
    [
        (Equal("a.b", 1), {"EQ": {"a.b": 1}}),
        (NotEqual("a", "x"), {"NEQ": {"a": "x"}}),
        (Greater("a", 1.5), {"GT": {"a": 1.5}}),
        (LessOrEqual("a", 1), {"LTE": {"a": 1}}),
        (OneOf("a", (True, 1, "x")), {"IN": {"a": [True, 1, "x"]}}),
        (AllOf(Equal("a", 1), AnyOf(Equal("b", 2), Equal("c", 3))), {"AND": [{"EQ": {"a": 1}}, {"OR": [{"EQ": {"b": 2}}, {"EQ": {"c": 3}}]}]}),
        (AllOf(AnyOf(Equal("a", 1))), {"EQ": {"a": 1}}),
    ],
    ids=str,
)  # fmt: skip
async def test_a_filter_is_asked_in_daprs_words(dapr: FakeState, state: StateManager, where, asked) -> None:
    await state.query(dict, where, sort=[Sort("a"), Sort("b", descending=True)], limit=7, token="14")

    assert dapr.queried == [
        {
            "filter": asked,
            "sort": [{"key": "a", "order": "ASC"}, {"key": "b", "order": "DESC"}],
            "page": {"limit": 7, "token": "14"},
        }
    ]


@pytest.mark.req("R4.6")
@pytest.mark.parametrize(
    ("value", "text"),
    [(1_000_000, "1000000"), (2.0, "2"), (1e21, "1000000000000000000000"), (1e-7, "0.0000001"), (-2.5, "-2.5"), (True, "true"), (False, "false"), ("x", "x"), (0, "0")],
)  # fmt: skip
async def test_where_text_is_compared_a_number_is_sent_as_its_text(
    dapr: FakeState, state: StateManager, value, text: str
) -> None:
    dapr.become("state.postgresql", *QUERIES)

    await state.query(dict, OneOf("a", [value]))

    assert dapr.queried[0]["filter"] == {"IN": {"a": [text]}}
    with pytest.raises(NotSupported, match="by which 10 is less than 9"):
        await state.query(dict, AllOf(Equal("a", 1), Greater("a", 1)))


async def test_what_says_nothing_is_refused(dapr: FakeState, state: StateManager) -> None:
    for where in (AllOf(), AnyOf(), OneOf("a", [])):
        with pytest.raises(ValueError, match=r"says nothing|can't be one of no values"):
            await state.query(dict, where)
    with pytest.raises(ValueError, match="a page of 0 items is none"):
        await state.query(dict, limit=0)

    assert dapr.queried == []


@pytest.mark.req("R4.6")
async def test_a_page_tells_items_errors_and_whether_there_is_more(dapr: FakeState, state: StateManager) -> None:
    dapr.answer = api_v1.QueryStateResponse(
        token="3",
        results=[
            api_v1.QueryStateItem(key="a", data=b"1", etag="7"),
            api_v1.QueryStateItem(key="b", data=b'"eyJh"', etag="8"),
            api_v1.QueryStateItem(key="c", error="can not be read"),
        ],
    )

    full, last = await state.query(int, limit=3), await state.query(int, limit=4)

    assert [(item.key, item.value, item.etag) for item in full.items] == [("a", 1, "7")]
    assert [(key, error.reason) for key, error in full.errors.items()] == [
        ("b", "STATE_UNREADABLE"),
        ("c", "SIDECAR_ERROR"),
    ]
    assert (full.token, last.token) == ("3", None)
