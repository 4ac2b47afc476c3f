"""`python -m apibase.local.binaries` fetches them ahead of time and lists them; arguments name series of Dapr, `zipkin` and `vault`."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from apibase.local.binaries import (
    SERIES,
    ToolMissing,
    dapr_binaries,
    kafka_binaries,
    postgres_binaries,
    redis_binaries,
    sentry_binary,
    vault_binaries,
    zipkin_binaries,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_INTERRUPTED = 130


def _dapr(series: str) -> tuple[str, str, str, str]:
    dapr = dapr_binaries(series)
    sentry_binary(dapr)
    return "Dapr", dapr.version, dapr.origin, str(dapr.daprd.parent)


def _postgres() -> tuple[str, str, str, str]:
    postgres = postgres_binaries()
    return "PostgreSQL", postgres.version, postgres.origin, str(postgres.bin_dir)


def _redis() -> tuple[str, str, str, str]:
    redis = redis_binaries()
    return "Redis", redis.version, redis.origin, str(redis.server)


def _kafka() -> tuple[str, str, str, str]:
    kafka = kafka_binaries()
    return "Kafka", kafka.version, kafka.origin, str(kafka.jars)


def _zipkin() -> tuple[str, str, str, str]:
    zipkin = zipkin_binaries()
    return "Zipkin", zipkin.version, zipkin.origin, str(zipkin.jar)


def _vault() -> tuple[str, str, str, str]:
    vault = vault_binaries()
    return "Vault", vault.version, vault.origin, str(vault.vault)


def main(arguments: Sequence[str] = ()) -> int:
    """Fetch everything and print a table; what can't be had is named on standard error, and the exit code is then 1.

    The arguments are series of Dapr, the default one alone if none is given, and `zipkin` for what only `--zipkin` needs, `vault` for
    what only the tests of secrets do.
    """
    others = {"zipkin": _zipkin, "vault": _vault}
    series = [argument for argument in arguments if argument not in others]
    searches: list[Callable[[], tuple[str, str, str, str]]] = [_redis, _postgres, _kafka]
    searches += [partial(_dapr, one) for one in series or (SERIES,)]
    searches += [search for name, search in others.items() if name in arguments]
    rows, missing = [("Tool", "Version", "From", "Path")], 0
    for search in searches:
        try:
            rows.append(search())
        except ToolMissing as error:
            missing += 1
            sys.stderr.write(f"error: {error}\n")
        except KeyboardInterrupt:
            return _INTERRUPTED
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{line.rstrip()}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
