"""A topic of Dapr's Redis broker, read and written in Redis itself: what no sidecar would let through, and what it wrote."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any


class RedisStreams:
    """The topics of one Redis."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.partition(":")
        self._port = int(port)

    async def events(self, topic: str) -> list[dict[str, Any]]:
        """The CloudEvents on a topic, oldest first."""
        return [json.loads(data) for data in await self.records(topic)]

    async def letters(self, topic: str) -> list[dict[str, Any]]:
        """The CloudEvents on a topic that also has records which are none, or none that Python reads."""
        found = []
        for data in await self.records(topic):
            with contextlib.suppress(ValueError, RecursionError):
                event = json.loads(data)
                if isinstance(event, dict):
                    found.append(event)
        return found

    async def forget(self, topic: str) -> None:
        """Take away all records of a topic."""
        await self._ask("XTRIM", topic, "MAXLEN", "0")

    async def records(self, topic: str) -> list[bytes]:
        """The records on a topic as they stand there."""
        entries = await self._ask("XRANGE", topic, "-", "+")
        return [fields[fields.index(b"data") + 1] for _, fields in entries]

    async def pending(self, topic: str, group: str) -> int:
        """How many records a consumer group has not acknowledged."""
        return int((await self._ask("XPENDING", topic, group))[0])

    async def add(self, topic: str, data: bytes) -> None:
        """Put a record on a topic, past any sidecar."""
        await self._ask("XADD", topic, "*", "data", data)

    async def _ask(self, *words: str | bytes) -> Any:
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=2**24)
        try:
            raw = [word if isinstance(word, bytes) else word.encode() for word in words]
            writer.write(b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in raw))
            await writer.drain()
            return await _reply(reader)
        finally:
            writer.close()
            await writer.wait_closed()


async def _reply(reader: asyncio.StreamReader) -> Any:
    """One reply in Redis' protocol."""
    head = (await reader.readline()).strip()
    kind, text = head[:1], head[1:]
    if kind == b"*":
        return [await _reply(reader) for _ in range(int(text))]
    if kind == b"$":
        return None if text == b"-1" else (await reader.readexactly(int(text) + 2))[:-2]
    if kind == b":":
        return int(text)
    assert kind == b"+", head
    return text
