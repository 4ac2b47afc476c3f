from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor
TOPIC_FIELD_NUMBER: _ClassVar[int]
topic: _descriptor.FieldDescriptor
BINDING_FIELD_NUMBER: _ClassVar[int]
binding: _descriptor.FieldDescriptor
EVENT_FIELD_NUMBER: _ClassVar[int]
event: _descriptor.FieldDescriptor

class Topic(_message.Message):
    __slots__ = ("pubsub_name", "name", "dead_letter_topic")
    PUBSUB_NAME_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTER_TOPIC_FIELD_NUMBER: _ClassVar[int]
    pubsub_name: str
    name: str
    dead_letter_topic: str
    def __init__(self, pubsub_name: _Optional[str] = ..., name: _Optional[str] = ..., dead_letter_topic: _Optional[str] = ...) -> None: ...

class Binding(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("pubsub_name", "topic")
    PUBSUB_NAME_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    pubsub_name: str
    topic: str
    def __init__(self, pubsub_name: _Optional[str] = ..., topic: _Optional[str] = ...) -> None: ...
