import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from shop.orders.v1 import order_pb2 as _order_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OrderRecord(_message.Message):
    __slots__ = ("order", "body_hash", "nonce", "payment_token", "closing_as", "traceparent")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    BODY_HASH_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CLOSING_AS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    order: _order_pb2.Order
    body_hash: str
    nonce: str
    payment_token: str
    closing_as: _order_pb2.OrderStatus
    traceparent: str
    def __init__(self, order: _Optional[_Union[_order_pb2.Order, _Mapping]] = ..., body_hash: _Optional[str] = ..., nonce: _Optional[str] = ..., payment_token: _Optional[str] = ..., closing_as: _Optional[_Union[_order_pb2.OrderStatus, str]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class OpenOrders(_message.Message):
    __slots__ = ("orders",)
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[OpenOrder]
    def __init__(self, orders: _Optional[_Iterable[_Union[OpenOrder, _Mapping]]] = ...) -> None: ...

class OpenOrder(_message.Message):
    __slots__ = ("order_id", "added_at")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDED_AT_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    added_at: _timestamp_pb2.Timestamp
    def __init__(self, order_id: _Optional[str] = ..., added_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
