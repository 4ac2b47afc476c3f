"""What is said of a few rounds: medians, and an interval that assumes nothing of how they are distributed."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST_COVERAGE = 0.95


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the ratios of rounds, with an interval that holds the true one with a probability of `coverage`."""

    median: float
    low: float
    high: float
    coverage: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(values: Sequence[float], base: Sequence[float]) -> Ratio:
    """Return how many times as much as `base` the values are, each held against that of its own round."""
    ratios = sorted(value / other for value, other in zip(values, base, strict=True))
    left_out, coverage = interval(len(ratios))
    return Ratio(statistics.median(ratios), ratios[left_out], ratios[-1 - left_out], coverage)


def interval(number: int) -> tuple[int, float]:
    """Return how many of so many sorted values to leave out at either end, such that what is between them holds the median.

    Its probability comes with it: 95 % at least, where there are six values or more (the sign test's interval).
    """
    left_out = 0
    while _coverage(number, left_out + 1) >= _LEAST_COVERAGE:
        left_out += 1
    return left_out, _coverage(number, left_out)


def _coverage(number: int, left_out: int) -> float:
    outside = sum(math.comb(number, count) for count in range(left_out + 1))
    return 1 - 2 * outside / 2**number
