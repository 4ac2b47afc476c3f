"""The contract's rules: how a violation's field is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apibase import InvalidRequest
from apibase.middleware.validation import validate
from shop.orders.v1 import order_pb2, service_pb2

if TYPE_CHECKING:
    from tests.unit.conftest import Desk


def test_a_valid_message_passes(desk: Desk) -> None:
    validate(desk.pb2.Question(text="why", items=[desk.pb2.Item(quantity=1000)], marks={"a": 0}))


def test_a_field_is_written_as_people_write_it(desk: Desk) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(desk.pb2.Question(items=[desk.pb2.Item(), desk.pb2.Item(quantity=1001)], marks={"a b": -1}))

    assert [violation.field for violation in caught.value.violations] == ["text", "items[1].quantity", 'marks["a b"]']
    assert all(violation.description and violation.rule for violation in caught.value.violations)


def test_every_rule_of_an_order_is_checked_at_once() -> None:
    request = service_pb2.PlaceOrderRequest(
        customer_id="no spaces",
        currency_code="eur",
        lines=[order_pb2.OrderLine(sku="mug", quantity=0)],
        payment_token="x" * 129,
        note="n" * 2001,
    )

    with pytest.raises(InvalidRequest) as caught:
        validate(request)

    assert {violation.field for violation in caught.value.violations} == {
        "customer_id",
        "idempotency_key",
        "currency_code",
        "lines[0].sku",
        "lines[0].quantity",
        "payment_token",
        "note",
    }


@pytest.mark.req("R13.4")
def test_a_violation_does_not_repeat_the_value() -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(service_pb2.PlaceOrderRequest(payment_token="hunter2" * 30))

    assert "hunter2" not in f"{caught.value} {caught.value.violations}"


@pytest.mark.req("R3.3")
def test_a_rule_that_can_not_be_evaluated_on_a_message_is_broken_by_it(post: Desk) -> None:
    with pytest.raises(InvalidRequest, match=r"a rule can't be evaluated: error evaluating ratio\.whole"):
        validate(post.pb2.Ratio(total=1))


@pytest.mark.req("R13.4")
def test_keys_of_what_must_not_be_shown_are_in_no_violation(post: Desk) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(post.pb2.Share(total=1, parts=1, holders={"hunter2": ""}))
    (violation,) = caught.value.violations
    assert (violation.field, violation.rule) == ("holders[…]", "string.min_len")
    assert "hunter2" not in str(caught.value)

    with pytest.raises(InvalidRequest) as caught:
        validate(post.pb2.Share(total=1))
    assert caught.value.message == "(message): a rule can't be evaluated"
