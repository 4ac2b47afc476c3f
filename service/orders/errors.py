"""The errors of the orders service, each with its reason from the contract (`OrderErrorReason`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from apibase import ErrorReasons, FieldViolation, InvalidRequest, ServiceError
from orders.rules import Problem
from shop.orders.v1 import errors_pb2, order_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orders.rules import LineProblem

_reason = ErrorReasons(errors_pb2.OrderErrorReason)
_OF_A_LINE = {
    Problem.UNKNOWN_SKU: _reason(errors_pb2.ORDER_ERROR_REASON_UNKNOWN_SKU),
    Problem.CURRENCY_NOT_OFFERED: _reason(errors_pb2.ORDER_ERROR_REASON_CURRENCY_NOT_OFFERED),
}


def order_not_found(order_id: str) -> ServiceError:
    """Return NOT_FOUND: no order has that id."""
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        _reason(errors_pb2.ORDER_ERROR_REASON_ORDER_NOT_FOUND),
        f"there is no order {order_id}",
        metadata={"order_id": order_id},
    )


def idempotency_key_reused(order_id: str) -> ServiceError:
    """Return ALREADY_EXISTS: the customer used the key for an order with another body."""
    return ServiceError(
        grpc.StatusCode.ALREADY_EXISTS,
        _reason(errors_pb2.ORDER_ERROR_REASON_IDEMPOTENCY_KEY_REUSED),
        f"the idempotency key belongs to order {order_id}, which says something else; use a new key for a new order",
        metadata={"order_id": order_id},
    )


def order_closed(order: order_pb2.Order) -> ServiceError:
    """Return FAILED_PRECONDITION: the order's status does not allow the request any more."""
    status = order_pb2.OrderStatus.Name(order.status)
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        _reason(errors_pb2.ORDER_ERROR_REASON_ORDER_CLOSED),
        f"order {order.order_id} is {status.removeprefix('ORDER_STATUS_').lower()}",
        metadata={"order_id": order.order_id, "status": status},
    )


def lines_not_sold(problems: Sequence[LineProblem]) -> ServiceError:
    """Return INVALID_ARGUMENT with a violation for each line that can't be sold."""
    return InvalidRequest(
        [
            FieldViolation(
                f"lines[{problem.index}].sku", f"{problem.sku} {problem.problem.value}", _OF_A_LINE[problem.problem]
            )
            for problem in problems
        ],
        reason=_OF_A_LINE[problems[0].problem],
    )


def told(error: ServiceError | grpc.aio.AioRpcError) -> str:
    """Return an error in one line for the log."""
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else str(error)
