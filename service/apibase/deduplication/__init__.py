"""Events that were handled before: how they are recognised, and how one is claimed before it is handled."""

from apibase.deduplication.claims import Claim, Deduplicator
from apibase.deduplication.identity import MISSING, Deduplication, check_key, remember_for
from apibase.deduplication.record import Busy, ClaimLost, Repetition

__all__ = [
    "MISSING",
    "Busy",
    "Claim",
    "ClaimLost",
    "Deduplication",
    "Deduplicator",
    "Repetition",
    "check_key",
    "remember_for",
]
