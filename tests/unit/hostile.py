"""Hostile input for the app channel: requests that daprd could send, broken in every way that a seed leads to."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from dapr.proto import common_v1
from dapr.proto.runtime.v1 import appcallback_pb2
from google.protobuf import struct_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

CALLBACK = "/dapr.proto.runtime.v1.AppCallback/"
ALPHA = "/dapr.proto.runtime.v1.AppCallbackAlpha/"
HEALTH = "/dapr.proto.runtime.v1.AppCallbackHealthCheck/HealthCheck"

METHODS: dict[str, tuple[type[Message], type[Message]]] = {
    f"{CALLBACK}OnInvoke": (common_v1.InvokeRequest, common_v1.InvokeResponse),
    f"{CALLBACK}ListTopicSubscriptions": (Empty, appcallback_pb2.ListTopicSubscriptionsResponse),
    f"{CALLBACK}OnTopicEvent": (appcallback_pb2.TopicEventRequest, appcallback_pb2.TopicEventResponse),
    f"{CALLBACK}OnBulkTopicEvent": (appcallback_pb2.TopicEventBulkRequest, appcallback_pb2.TopicEventBulkResponse),
    f"{CALLBACK}ListInputBindings": (Empty, appcallback_pb2.ListInputBindingsResponse),
    f"{CALLBACK}OnBindingEvent": (appcallback_pb2.BindingEventRequest, appcallback_pb2.BindingEventResponse),
    f"{CALLBACK}OnJobEvent": (appcallback_pb2.JobEventRequest, appcallback_pb2.JobEventResponse),
    f"{ALPHA}OnBulkTopicEventAlpha1": (appcallback_pb2.TopicEventBulkRequest, appcallback_pb2.TopicEventBulkResponse),
    f"{ALPHA}OnJobEventAlpha1": (appcallback_pb2.JobEventRequest, appcallback_pb2.JobEventResponse),
    HEALTH: (Empty, appcallback_pb2.HealthCheckResponse),
}
"""The paths of everything that daprd calls, with the messages of each."""

# Events go where handlers are, mostly.
_WEIGHTS = [3, 1, 6, 3, 1, 3, 2, 2, 1, 1]
# Deeper than protobuf reads: lists in an extension.
_DEEP = 60
_TEXTS = [
    "",
    " ",
    "\x00",
    "\n\r\t",
    "{}{0}{name}%s%n",
    "../../etc/passwd",
    "<level>é</level>",
    "時" * 3000,
    "🙂",
    "x" * 20_000,
    "default",
    "(default)",
    "com.dapr.event.sent",
    "application/protobuf",
    "text/plain; charset=\x01",
]
_DATA = [
    b"",
    b"{",
    b"[" * 50_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b'{"text": NaN}',
    b'{"text": "a", "weight": 1e999}',
    b'{"text": "\\ud800"}',
    b'{"text": "a", "postedAt": "99999-01-01T00:00:00Z"}',
    b'{"text": "a", "extra": {"x": Infinity}}',
    b'{"text": "a", "enclosed": {"@type": 5}}',
    b'{"text": "a", "weight": "' + b"9" * 5_000 + b'"}',
    b'{"text": ' + b"9" * 5_000 + b"}",
    b"\xff\xfe{\x00}\x00",
    b"\x00" * 1000,
    b"\n{" + b"x" * 123,
    b"\x0b" * 300,
    '{"text": "時🙂\u202e"}'.encode(),
    b'{"text": "' + b"x" * 300_000 + b'"}',
    b"\xff" * 300_000,
]
_HEADERS = [
    ("traceparent", "00-00000000000000000000000000000000-0000000000000000-00"),
    ("traceparent", "00-" + "f" * 32 + "-" + "f" * 16 + "-ff-" + "x" * 500),
    ("traceparent", ""),
    ("tracestate", "," * 300),
    ("grpc-trace-bin", b"\xff\x00\x01"),
    ("x-correlation-id", "{}{0}%s" * 50),
    ("dapr-caller-app-id", "<level>\x7e"),
    ("dapr-api-token", ""),
    ("__partition", "x"),
    ("__timestamp", "9" * 40),
]


@dataclass(frozen=True)
class Hostile:
    """One input. `request` is what its bytes say, or None where they say nothing."""

    path: str
    data: bytes
    headers: tuple[tuple[str, str | bytes], ...]
    request: Message | None


class Adversary:
    """Makes hostile inputs; the same ones for the same seed."""

    def __init__(self, seed: int, letters: list[bytes]) -> None:
        self._random = random.Random(seed)
        self._data = [*_DATA, *letters, *letters, *letters]

    def next(self) -> Hostile:
        """Return the next input."""
        pick = self._random
        (path,) = pick.choices(list(METHODS), _WEIGHTS)
        kind = METHODS[path][0]
        how = pick.random()
        if how < 0.1:
            data = pick.randbytes(pick.choice([0, 1, 3, 20, 300]))
        else:
            data = self._request(kind).SerializeToString()
            if how > 0.95:
                data += nested_too_deep(kind)
            if how < 0.4:
                data = self._mutated(data)
        headers = tuple(pick.sample(_HEADERS, pick.choice([0, 0, 1, 3])))
        try:
            request = kind.FromString(data)
        except DecodeError:
            request = None
        return Hostile(path, data, headers, request)

    def _text(self, *usual: str) -> str:
        return self._random.choice(usual) if self._random.random() < 0.85 else self._random.choice(_TEXTS)

    def _bytes(self) -> bytes:
        data = self._random.choice(self._data)
        return self._mutated(data) if self._random.random() < 0.3 else data

    def _request(self, kind: type[Message]) -> Message:
        pick = self._random
        if kind is common_v1.InvokeRequest:
            request = common_v1.InvokeRequest(
                method=self._text("ask"), content_type=self._text("application/json", "text/plain")
            )
            request.data.type_url = self._text("", "type.googleapis.com/post.v1.Letter")
            request.data.value = self._bytes()
            request.http_extension.querystring = self._text("", "a=b")
            return request
        if kind is appcallback_pb2.TopicEventRequest:
            return appcallback_pb2.TopicEventRequest(
                path=self._path(), pubsub_name=self._text("events"), topic=self._topic(), **self._event()
            )
        if kind is appcallback_pb2.TopicEventBulkRequest:
            batch = appcallback_pb2.TopicEventBulkRequest(
                id=self._text("batch"), path=self._path(), pubsub_name=self._text("events"), topic=self._topic()
            )
            for number in range(pick.choice([0, 1, 2, 7])):
                entry = batch.entries.add(entry_id=self._text(f"entry-{number}"), content_type=self._text("", "x/y"))
                if pick.random() < 0.7:
                    entry.cloud_event.CopyFrom(appcallback_pb2.TopicEventCERequest(**self._event()))
                elif pick.random() < 0.8:
                    entry.bytes = self._bytes()
            return batch
        if kind is appcallback_pb2.BindingEventRequest:
            names = {self._text("__offset", "__partition", "__timestamp"): self._text("7", "²") for _ in range(3)}
            return appcallback_pb2.BindingEventRequest(
                name=self._text("mail"), data=self._bytes(), metadata={k: v for k, v in names.items() if k.isascii()}
            )
        if kind is appcallback_pb2.JobEventRequest:
            job = appcallback_pb2.JobEventRequest(
                name=self._text("remind", "post.v1.PostEvents.Sweep"),
                method=self._text("job/remind"),
                content_type=self._text("application/json", "application/protobuf", ""),
            )
            job.data.value = self._bytes()
            return job
        return Empty()

    def _path(self) -> str:
        return self._text("", "(default)", "post.v1.PostEvents.OnHeavy", "post.v1.PostEvents.OnExpress")

    def _topic(self) -> str:
        return self._text("letters", "letters", "records", "notes", "loose")

    def _event(self) -> dict[str, Any]:
        extensions = struct_pb2.Struct()
        for name in self._random.sample(["traceparent", "id", "data", "dlcode", "shop", "\x00", "é"], 2):
            extensions.fields[name].CopyFrom(
                self._random.choice(
                    [
                        struct_pb2.Value(number_value=float("nan")),
                        struct_pb2.Value(number_value=float("-inf")),
                        struct_pb2.Value(),
                        struct_pb2.Value(string_value=self._text("east")),
                        struct_pb2.Value(list_value={"values": [{"number_value": float("nan")}]}),
                        struct_pb2.Value(struct_value={"fields": {"a": {"bool_value": True}}}),
                    ]
                )
            )
        return {
            "id": self._text("event-1"),
            "source": self._text("shop"),
            "type": self._text("post.v1.Letter", "post.v1.Letter", "post.v1.Note", "com.dapr.event.sent"),
            "spec_version": self._text("1.0"),
            "data_content_type": self._text("application/json", "application/protobuf", ""),
            "data": self._bytes(),
            "extensions": extensions,
        }

    def _mutated(self, data: bytes) -> bytes:
        pick = self._random
        made = bytearray(data)
        for _ in range(pick.choice([1, 1, 2, 5, 20])):
            at = pick.randrange(len(made) + 1)
            to = min(len(made), at + pick.choice([1, 2, 10, 100]))
            match pick.randrange(6):
                case 0 if at < len(made):
                    made[at] ^= 1 << pick.randrange(8)
                case 1:
                    del made[at:to]
                case 2:
                    made[at:at] = made[at:to] * pick.choice([1, 3])
                case 3:
                    made[at:at] = pick.randbytes(pick.choice([1, 4, 40]))
                case 4 if at < len(made):
                    made[at] = pick.choice([0x00, 0x7F, 0x80, 0xFF])
                case 5 if len(made) > 1:
                    del made[pick.randrange(1, len(made)) :]
                case _:
                    continue
        return bytes(made)


def nested_too_deep(kind: type[Message]) -> bytes:
    """Return what makes a request of a topic event, or of a batch of them, one that protobuf does not read; nothing for others."""
    value = struct_pb2.Value(number_value=1).SerializeToString()
    for _ in range(_DEEP):
        value = _field(struct_pb2.Value.LIST_VALUE_FIELD_NUMBER, _field(1, value))
    extensions = _field(1, _field(1, b"deep") + _field(2, value))
    if kind is appcallback_pb2.TopicEventRequest:
        return _field(appcallback_pb2.TopicEventRequest.EXTENSIONS_FIELD_NUMBER, extensions)
    if kind is appcallback_pb2.TopicEventBulkRequest:
        event = _field(appcallback_pb2.TopicEventCERequest.EXTENSIONS_FIELD_NUMBER, extensions)
        return _field(2, _field(1, b"deep-entry") + _field(3, event))
    return b""


def _field(number: int, value: bytes) -> bytes:
    """Return a field that has a length, as protobuf writes it."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def is_json(text: bytes) -> bool:
    """Whether a strict reader takes it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True
