"""Reasons of errors: values of enums of the contracts, and nothing else."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2

import orders.errors
import payments.errors
from apibase import Drop, ErrorReasons, InvalidRequest, ServiceError
from apibase.contract.reasons import Reason
from apibase.error_status import to_status
from dapr_contract.v1 import errors_pb2
from orders.rules import LineProblem, Problem
from shop.orders.v1 import errors_pb2 as order_errors_pb2
from shop.orders.v1 import order_pb2
from shop.payments.v1 import errors_pb2 as payment_errors_pb2
from shop.payments.v1 import payment_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICE = Path(__file__).parents[3] / "service"
RAISED = {"ServiceError": 1, "SidecarError": 1, "InvalidRequest": None, "Drop": None}
"""The errors that have a reason, and its place among their arguments."""


def info(error: ServiceError, domain: str = "desk.v1") -> tuple[str, str]:
    """Return domain and reason as a caller gets them."""
    found = error_details_pb2.ErrorInfo()
    assert to_status(error, domain=domain).details[0].Unpack(found)
    return found.domain, found.reason


def test_a_reason_is_the_values_name_without_the_enums_and_knows_its_package() -> None:
    reason = ErrorReasons(order_errors_pb2.OrderErrorReason)(order_errors_pb2.ORDER_ERROR_REASON_ORDER_CLOSED)

    assert (reason, reason.domain) == ("ORDER_CLOSED", "shop.orders.v1")
    assert isinstance(reason, Reason)
    assert pickle.loads(pickle.dumps(reason)) == reason


@pytest.mark.parametrize("number", [0, 9, -1])
def test_a_number_without_a_reason_is_refused_with_the_enums_line(number: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^shop/payments/v1/errors\.proto:6: shop\.payments\.v1\.PaymentErrorReason has no"
    ):
        ErrorReasons(payment_errors_pb2.PaymentErrorReason)(number)


def test_the_value_itself_is_refused_where_a_reason_is_wanted() -> None:
    with pytest.raises(TypeError, match="ErrorReasons"):
        ServiceError(grpc.StatusCode.NOT_FOUND, order_errors_pb2.ORDER_ERROR_REASON_ORDER_NOT_FOUND, "no")  # type: ignore[arg-type]


def test_the_domain_is_the_package_of_the_reasons_enum_whichever_service_was_called() -> None:
    reason = ErrorReasons(order_errors_pb2.OrderErrorReason)(order_errors_pb2.ORDER_ERROR_REASON_ORDER_CLOSED)

    assert info(ServiceError(grpc.StatusCode.NOT_FOUND, reason, "no")) == ("shop.orders.v1", "ORDER_CLOSED")
    assert info(InvalidRequest([])) == ("dapr_contract.v1", "INVALID_REQUEST")
    assert info(InvalidRequest([], reason=reason)) == ("shop.orders.v1", "ORDER_CLOSED")
    assert info(ServiceError(grpc.StatusCode.NOT_FOUND, "MY_OWN", "no")) == ("desk.v1", "MY_OWN")


def test_every_reason_of_orders_is_raised_by_it() -> None:
    order = order_pb2.Order(order_id="1", status=order_pb2.ORDER_STATUS_SETTLED)
    raised = [
        orders.errors.order_not_found("1"),
        orders.errors.idempotency_key_reused("1"),
        orders.errors.order_closed(order),
        *(orders.errors.lines_not_sold([LineProblem(0, "MUG", problem)]) for problem in Problem),
    ]

    assert {info(error, "") for error in raised} == reasons_of(order_errors_pb2.OrderErrorReason)


def test_every_reason_of_payments_is_raised_by_it() -> None:
    raised = [
        payments.errors.payment_not_found("1"),
        payments.errors.payment_id_reused("1"),
        payments.errors.wrong_status(payment_pb2.Payment(status=payment_pb2.PAYMENT_STATUS_VOIDED)),
    ]

    assert {info(error, "") for error in raised} == reasons_of(payment_errors_pb2.PaymentErrorReason)


def reasons_of(enum: Any) -> set[tuple[str, str]]:
    """Return domain and name of an enum's reasons, but for the one that says nothing."""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    return {(enum.DESCRIPTOR.file.package, name.removeprefix(prefix)) for name in enum.keys()[1:]}


@pytest.mark.parametrize("package", ["apibase", "orders", "payments"])
def test_no_error_is_raised_with_a_reason_that_is_text(package: str) -> None:
    text = [f"{place}: {value}" for place, value in reason_arguments(package) if isinstance(value, str)]

    assert text == []


def test_the_chassis_gives_every_reason_of_its_enum_and_no_other() -> None:
    used = {
        node.attr
        for tree in trees("apibase").values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("ERROR_REASON_")
    }

    assert used == set(errors_pb2.ErrorReason.keys()[1:])


def test_a_drop_without_a_code_has_the_chassis_own() -> None:
    assert Drop("no").code == "DROPPED"
    assert Drop("no", code="SOLD_OUT").code == "SOLD_OUT"


def trees(package: str) -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((SERVICE / package).rglob("*.py"))}


def reason_arguments(package: str) -> Iterator[tuple[str, object]]:
    """Yield each place where an error with a reason is made, and the reason: its text, or the expression that it is."""
    for path, tree in trees(package).items():
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED):
                continue
            position = RAISED[node.func.id]
            given = [keyword.value for keyword in node.keywords if keyword.arg in {"reason", "code"}]
            given += node.args[position : position + 1] if position is not None else []
            for value in given:
                place = f"{path.relative_to(SERVICE)}:{node.lineno}"
                if isinstance(value, ast.Name):
                    yield place, constants.get(value.id, value)
                else:
                    yield place, value.value if isinstance(value, ast.Constant) else value
