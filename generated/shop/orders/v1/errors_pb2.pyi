from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class OrderErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_ERROR_REASON_UNSPECIFIED: _ClassVar[OrderErrorReason]
    ORDER_ERROR_REASON_ORDER_NOT_FOUND: _ClassVar[OrderErrorReason]
    ORDER_ERROR_REASON_IDEMPOTENCY_KEY_REUSED: _ClassVar[OrderErrorReason]
    ORDER_ERROR_REASON_UNKNOWN_SKU: _ClassVar[OrderErrorReason]
    ORDER_ERROR_REASON_CURRENCY_NOT_OFFERED: _ClassVar[OrderErrorReason]
    ORDER_ERROR_REASON_ORDER_CLOSED: _ClassVar[OrderErrorReason]
ORDER_ERROR_REASON_UNSPECIFIED: OrderErrorReason
ORDER_ERROR_REASON_ORDER_NOT_FOUND: OrderErrorReason
ORDER_ERROR_REASON_IDEMPOTENCY_KEY_REUSED: OrderErrorReason
ORDER_ERROR_REASON_UNKNOWN_SKU: OrderErrorReason
ORDER_ERROR_REASON_CURRENCY_NOT_OFFERED: OrderErrorReason
ORDER_ERROR_REASON_ORDER_CLOSED: OrderErrorReason
