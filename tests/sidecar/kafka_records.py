"""A Kafka's topics, written and read in Kafka's own protocol: keys, headers and bytes that no sidecar would send, and what it wrote.

Only what the tests need: one broker, partition 0, no compression.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_PRODUCE, _FETCH, _CREATE_TOPICS, _ALTER_CONFIGS = (0, 3), (1, 4), (19, 2), (44, 0)
_EXISTS = 36
_UNKNOWN_TOPIC = 3
_TIMEOUT_MS = 10_000
_ALL = 64 * 1024 * 1024


@dataclass(frozen=True)
class Record:
    """One record; `offset` and `timestamp` (milliseconds since 1970) are the broker's once it is read."""

    value: bytes
    key: bytes | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    offset: int = 0
    timestamp: int = 0


class KafkaTopics:
    """The topics of one broker."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.partition(":")
        self._port = int(port)

    async def create(self, topic: str, *, max_message_bytes: int | None = None) -> None:
        """Make a topic if it isn't there, and let it take messages of that size."""
        request = _array([_text(topic) + struct.pack(">ih", 1, 1) + _array([]) + _array([])])
        answer = await self._ask(_CREATE_TOPICS, request + struct.pack(">i?", _TIMEOUT_MS, False))
        answer.int32()
        assert answer.int32() == 1
        answer.text()
        assert (error := answer.int16()) in {0, _EXISTS}, error
        if max_message_bytes is not None:
            setting = _text("max.message.bytes") + b"\x00" + _text(str(max_message_bytes))
            request = _array([b"\x02" + _text(topic) + _array([setting])]) + b"\x00"
            answer = await self._ask(_ALTER_CONFIGS, request)
            answer.int32()
            assert answer.int32() == 1
            assert (error := answer.int16()) == 0, error

    async def add(self, topic: str, *records: Record) -> int:
        """Write records to a topic, one batch of them, past any sidecar, and return the first one's offset."""
        batch = _batch(records)
        partition = struct.pack(">i", 0) + struct.pack(">i", len(batch)) + batch
        request = _text(None) + struct.pack(">hi", -1, _TIMEOUT_MS) + _array([_text(topic) + _array([partition])])
        answer = await self._ask(_PRODUCE, request)
        assert answer.int32() == 1
        answer.text()
        assert (answer.int32(), answer.int32()) == (1, 0)
        assert (error := answer.int16()) == 0, error
        return answer.int64()

    async def records(self, topic: str) -> list[Record]:
        """The records on a topic, oldest first."""
        partition = struct.pack(">iqi", 0, 0, _ALL)
        request = struct.pack(">iiiib", -1, 0, 0, _ALL, 0) + _array([_text(topic) + _array([partition])])
        answer = await self._ask(_FETCH, request)
        answer.int32()
        assert answer.int32() == 1
        answer.text()
        assert (answer.int32(), answer.int32()) == (1, 0)
        error = answer.int16()
        if error == _UNKNOWN_TOPIC:
            return []
        assert error == 0, error
        answer.int64(), answer.int64()
        for _ in range(max(answer.int32(), 0)):
            answer.int64(), answer.int64()
        return _records(answer.take(max(answer.int32(), 0)))

    async def events(self, topic: str) -> list[dict[str, Any]]:
        """The CloudEvents on a topic, oldest first; what is none, or none that Python reads, is left out."""
        events = []
        for record in await self.records(topic):
            with contextlib.suppress(ValueError, RecursionError):
                event = json.loads(record.value)
                if isinstance(event, dict):
                    events.append(event)
        return events

    async def _ask(self, call: tuple[int, int], body: bytes) -> _Reader:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            request = struct.pack(">hhi", *call, 1) + _text("tests") + body
            writer.write(struct.pack(">i", len(request)) + request)
            await writer.drain()
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            answer = _Reader(await reader.readexactly(size))
            assert answer.int32() == 1
            return answer
        finally:
            writer.close()
            await writer.wait_closed()


class _Reader:
    """Reads Kafka's types from bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        data = self._data[self._at : self._at + count]
        self._at += count
        return data

    def int16(self) -> int:
        return int.from_bytes(self.take(2), signed=True)

    def int32(self) -> int:
        return int.from_bytes(self.take(4), signed=True)

    def int64(self) -> int:
        return int.from_bytes(self.take(8), signed=True)

    def text(self) -> bytes:
        return self.take(max(self.int16(), 0))

    def varint(self) -> int:
        raw = shift = 0
        while True:
            byte = self.take(1)[0]
            raw |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (raw >> 1) ^ -(raw & 1)
            shift += 7

    def sized(self) -> bytes | None:
        size = self.varint()
        return self.take(size) if size >= 0 else None


def _text(text: str | None) -> bytes:
    raw = (text or "").encode()
    return struct.pack(">h", -1) if text is None else struct.pack(">h", len(raw)) + raw


def _array(items: Sequence[bytes]) -> bytes:
    return struct.pack(">i", len(items)) + b"".join(items)


def _varint(number: int) -> bytes:
    raw = (number << 1) ^ (number >> 63)
    made = bytearray()
    while raw > 0x7F:
        made.append(raw & 0x7F | 0x80)
        raw >>= 7
    return bytes([*made, raw])


def _sized(data: bytes | None) -> bytes:
    return _varint(-1) if data is None else _varint(len(data)) + data


def _batch(records: Sequence[Record]) -> bytes:
    """Write a batch of records, format 2."""
    written = []
    for number, record in enumerate(records):
        headers = b"".join(_sized(name) + _sized(value) for name, value in record.headers)
        body = b"\x00\x00" + _varint(number) + _sized(record.key) + _sized(record.value)
        body += _varint(len(record.headers)) + headers
        written.append(_sized(body))
    now = time.time_ns() // 1_000_000
    tail = struct.pack(">hiqqqhi", 0, len(records) - 1, now, now, -1, -1, -1) + _array(written)
    head = struct.pack(">ib", -1, 2) + struct.pack(">I", _crc32c(tail))
    return struct.pack(">qi", 0, len(head) + len(tail)) + head + tail


def _records(data: bytes) -> list[Record]:
    batches, found = _Reader(data), []
    while batches.left > 12:
        base, size = batches.int64(), batches.int32()
        batch = _Reader(batches.take(size))
        if batch.left < size:
            break  # the answer ends within it
        batch.take(4 + 1 + 4 + 2 + 4)
        first = batch.int64()
        batch.take(8 + 8 + 2 + 4)
        for _ in range(batch.int32()):
            record = _Reader(batch.sized() or b"")
            record.take(1)
            later, offset = record.varint(), record.varint()
            key, value = record.sized(), record.sized()
            headers = tuple((record.sized() or b"", record.sized() or b"") for _ in range(record.varint()))
            found.append(Record(value or b"", key, headers, base + offset, first + later))
    return found


def _table() -> list[int]:
    made = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)  # noqa: PLW2901 - that is the algorithm
        made.append(number)
    return made


_TABLE = _table()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF
