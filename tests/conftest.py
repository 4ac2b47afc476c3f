"""What holds for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


def pytest_configure() -> None:
    # A shell's background job ignores Ctrl-C, and so would all that it starts; tests that press it mean a person's terminal.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_secrets_of_another_test() -> Iterator[None]:
    """A secret that one test reads is no secret in the next: `1234` would be hidden in trace ids and counters."""
    from apibase.observability import log_secrets  # noqa: PLC0415 - tests of what loads nothing load nothing

    before = set(log_secrets._given)
    yield
    log_secrets._given.clear()
    log_secrets._given.update(before)
