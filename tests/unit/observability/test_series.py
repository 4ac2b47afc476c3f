"""Counters and histograms of the event loop's thread: what Prometheus reads of them."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from apibase.observability.series import OTHER, BoundedLabel, Counts, Timings


def test_a_counter_is_read_as_prometheus_clients_own_is() -> None:
    registry = CollectorRegistry()
    family = Counts("calls", "Calls.", ("method",), registry)
    family.labels("Ask").inc()
    family.labels("Ask").inc()

    text = generate_latest(registry).decode()

    assert "# TYPE calls_total counter" in text
    assert 'calls_total{method="Ask"} 2.0' in text


def test_a_histogram_counts_as_prometheus_clients_own_does() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    timing = Timings("took_seconds", "Time.", ("method",), (0.1, 1.0), ours).labels("Ask")
    reference = Histogram("took_seconds", "Time.", ("method",), buckets=(0.1, 1.0), registry=theirs).labels("Ask")
    for value in (0.0, 0.05, 0.1, 0.100001, 1.0, 7.0):
        timing.observe(value)
        reference.observe(value)

    def lines(registry: CollectorRegistry) -> list[str]:
        return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]

    assert lines(ours) == lines(theirs)


def test_a_series_is_made_once() -> None:
    family = Counts("calls", "Calls.", ("method",), CollectorRegistry())

    assert family.labels("Ask") is family.labels("Ask")
    assert family.labels("Ask") is not family.labels("Tell")


def test_a_value_for_each_label_is_wanted() -> None:
    family = Counts("calls", "Calls.", ("method", "code"), CollectorRegistry())

    with pytest.raises(ValueError, match="calls has the labels method, code"):
        family.labels("Ask")


def test_a_name_is_taken_once_in_a_registry() -> None:
    registry = CollectorRegistry()
    Counts("calls", "Calls.", (), registry)

    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Counts("calls", "Calls.", (), registry)


def test_values_beyond_the_bound_are_the_others() -> None:
    label = BoundedLabel(2)

    assert [label.value(value) for value in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]
