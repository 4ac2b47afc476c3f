from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class PaymentErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAYMENT_ERROR_REASON_UNSPECIFIED: _ClassVar[PaymentErrorReason]
    PAYMENT_ERROR_REASON_PAYMENT_NOT_FOUND: _ClassVar[PaymentErrorReason]
    PAYMENT_ERROR_REASON_PAYMENT_ID_REUSED: _ClassVar[PaymentErrorReason]
    PAYMENT_ERROR_REASON_WRONG_STATUS: _ClassVar[PaymentErrorReason]
PAYMENT_ERROR_REASON_UNSPECIFIED: PaymentErrorReason
PAYMENT_ERROR_REASON_PAYMENT_NOT_FOUND: PaymentErrorReason
PAYMENT_ERROR_REASON_PAYMENT_ID_REUSED: PaymentErrorReason
PAYMENT_ERROR_REASON_WRONG_STATUS: PaymentErrorReason
