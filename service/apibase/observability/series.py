"""Counters and histograms for one thread: the event loop's.

prometheus-client's own take a lock for every number, which costs a call more than all the rest of its metrics. These are
plain numbers, changed by the loop's thread alone; another one, which reads them for a scrape, sees each of them whole.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

OTHER = "(other)"
"""Stands for every value of a label beyond those that are told apart."""


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        """Count one more."""
        self.value += 1


class Timing:
    """One series of a histogram."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value, which belongs to the first bucket whose bound it does not exceed."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


S = TypeVar("S", Count, Timing)


class _Family(Collector, Generic[S]):
    def __init__(self, name: str, help_text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self.name = name
        self.label_names = tuple(labels)
        self._help = help_text
        self._series: dict[tuple[str, ...], S] = {}
        registry.register(self)

    def labels(self, *values: str) -> S:
        """Return the series with these values of the labels, one for each. To be kept: looking it up costs more than counting."""
        if len(values) != len(self.label_names):
            raise ValueError(f"{self.name} has the labels {', '.join(self.label_names)}, not {values}")
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = self._new()
        return series

    def describe(self) -> Iterable[Metric]:
        """Return the family without its series."""
        return [self._empty()]

    def collect(self) -> Iterable[Metric]:
        """Return the family as it is now."""
        raise NotImplementedError

    def _empty(self) -> Metric:
        raise NotImplementedError

    def _new(self) -> S:
        raise NotImplementedError


class Counts(_Family[Count]):
    """A counter; `name` is without `_total`."""

    def collect(self) -> Iterable[Metric]:
        """Return the counter as it is now."""
        family = self._empty()
        for values, series in list(self._series.items()):
            family.add_metric(values, series.value)
        return [family]

    def _empty(self) -> CounterMetricFamily:
        return CounterMetricFamily(self.name, self._help, labels=self.label_names)

    def _new(self) -> Count:
        return Count()


class Timings(_Family[Timing]):
    """A histogram of seconds with the upper bounds of its buckets, ascending."""

    def __init__(
        self, name: str, help_text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._bounds = tuple(bounds)
        self._names = [*map(str, self._bounds), "+Inf"]
        super().__init__(name, help_text, labels, registry)

    def collect(self) -> Iterable[Metric]:
        """Return the histogram as it is now."""
        family = self._empty()
        for values, series in list(self._series.items()):
            buckets, seen = [], 0
            for name, count in zip(self._names, list(series.counts), strict=True):
                seen += count
                buckets.append((name, float(seen)))
            family.add_metric(values, buckets, series.total)
        return [family]

    def _empty(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self.name, self._help, labels=self.label_names)

    def _new(self) -> Timing:
        return Timing(self._bounds)


class BoundedLabel:
    """Values of a label that an app's own code makes up as it runs: the first `most` as they are, then `(other)`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: set[str] = set()

    def value(self, wanted: str) -> str:
        """Return the value, or what stands for it where there are too many."""
        if wanted not in self._seen:
            if len(self._seen) >= self._most:
                return OTHER
            self._seen.add(wanted)
        return wanted
