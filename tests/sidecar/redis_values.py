"""The values of one database of a Redis, as Dapr's configuration store reads them: `value`, or `value||version`."""

from __future__ import annotations

import asyncio

from tests.sidecar.redis_streams import _reply


class RedisValues:
    """One database of a Redis."""

    def __init__(self, address: str, database: int = 0) -> None:
        self._host, _, port = address.partition(":")
        self._port = int(port)
        self._database = database

    async def set(self, key: str, value: str, version: str = "") -> None:
        await self._ask("SET", key, f"{value}||{version}" if version else value)

    async def delete(self, key: str) -> None:
        await self._ask("DEL", key)

    async def _ask(self, *words: str) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            for command in (("SELECT", str(self._database)), words):
                raw = [word.encode() for word in command]
                writer.write(b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in raw))
                await writer.drain()
                await _reply(reader)
        finally:
            writer.close()
            await writer.wait_closed()
