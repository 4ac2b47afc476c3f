"""The errors of the payments service, each with its reason from the contract (`PaymentErrorReason`)."""

from __future__ import annotations

import grpc

from apibase import ErrorReasons, ServiceError
from shop.payments.v1 import errors_pb2, payment_pb2

_reason = ErrorReasons(errors_pb2.PaymentErrorReason)


def payment_not_found(payment_id: str) -> ServiceError:
    """Return NOT_FOUND: no payment has that id."""
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        _reason(errors_pb2.PAYMENT_ERROR_REASON_PAYMENT_NOT_FOUND),
        f"there is no payment {payment_id}",
        metadata={"payment_id": payment_id},
    )


def payment_id_reused(payment_id: str) -> ServiceError:
    """Return ALREADY_EXISTS: the id belongs to a payment of another amount or order."""
    return ServiceError(
        grpc.StatusCode.ALREADY_EXISTS,
        _reason(errors_pb2.PAYMENT_ERROR_REASON_PAYMENT_ID_REUSED),
        f"payment {payment_id} is of another amount or order",
        metadata={"payment_id": payment_id},
    )


def wrong_status(payment: payment_pb2.Payment) -> ServiceError:
    """Return FAILED_PRECONDITION: the payment's status does not allow the request."""
    status = payment_pb2.PaymentStatus.Name(payment.status)
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        _reason(errors_pb2.PAYMENT_ERROR_REASON_WRONG_STATUS),
        f"payment {payment.payment_id} is {status.removeprefix('PAYMENT_STATUS_').lower()}",
        metadata={"payment_id": payment.payment_id, "status": status},
    )
