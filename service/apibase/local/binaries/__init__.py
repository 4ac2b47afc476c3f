"""The executables that a local stack runs: found, or made once into a cache."""

from apibase.local.binaries.dapr_tool import SERIES, DaprBinaries, dapr_binaries, sentry_binary
from apibase.local.binaries.kafka_tool import KafkaBinaries, kafka_binaries
from apibase.local.binaries.postgres_tool import PostgresBinaries, postgres_binaries, postgres_for
from apibase.local.binaries.public_copies import public_copy, reachable_by
from apibase.local.binaries.redis_tool import RedisBinaries, redis_binaries
from apibase.local.binaries.report import Progress, ToolMissing
from apibase.local.binaries.vault_tool import VaultBinaries, vault_binaries
from apibase.local.binaries.zipkin_tool import ZipkinBinaries, zipkin_binaries

__all__ = [
    "SERIES",
    "DaprBinaries",
    "KafkaBinaries",
    "PostgresBinaries",
    "Progress",
    "RedisBinaries",
    "ToolMissing",
    "VaultBinaries",
    "ZipkinBinaries",
    "dapr_binaries",
    "kafka_binaries",
    "postgres_binaries",
    "postgres_for",
    "public_copy",
    "reachable_by",
    "redis_binaries",
    "sentry_binary",
    "vault_binaries",
    "zipkin_binaries",
]
