"""The command line of daprd, as the stand-in reads it."""

from __future__ import annotations

import pytest

from apibase.testing.stand_in.daprd_flags import DaprdFlags, FlagError


def test_values_stand_behind_a_space_or_an_equals_sign() -> None:
    flags = DaprdFlags.read(["--app-id", "orders", "--app-port=50051", "--resources-path", "a,b", "--resources-path=c"])

    assert (flags.text("app-id"), flags.number("app-port", 0)) == ("orders", 50051)
    assert flags.texts("resources-path") == ["a", "b", "c"]
    assert (flags.number("dapr-grpc-port", 50001), flags.text("log-level", "info")) == (50001, "info")


def test_switches_are_on_unless_they_say_otherwise() -> None:
    flags = DaprdFlags.read(["--enable-app-health-check", "--log-as-json=false", "--enable-metrics=false", "--wait"])

    assert flags.switch("enable-app-health-check")
    assert not flags.switch("log-as-json")
    assert flags.passed_over == ["enable-metrics", "wait"]


@pytest.mark.parametrize(
    ("text", "size"), [("4Mi", 4 * 2**20), ("1000", 1000), ("2M", 2_000_000), ("1Gi", 2**30), ("8Ki", 8192)]
)
def test_sizes_are_quantities(text: str, size: int) -> None:
    assert DaprdFlags.read(["--max-body-size", text]).bytes("max-body-size", 1) == size


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["--app-id"], "flag needs an argument: --app-id"),
        (["orders"], "'orders' is no flag"),
        (["--log-as-json=perhaps"], "neither true nor false"),
    ],
)
def test_what_daprd_would_not_take_is_refused(words: list[str], why: str) -> None:
    with pytest.raises(FlagError, match=why):
        DaprdFlags.read(words)


def test_a_value_of_the_wrong_kind_is_refused() -> None:
    flags = DaprdFlags.read(["--app-port", "x", "--max-body-size", "much"])

    with pytest.raises(FlagError, match="'x' is no number"):
        flags.number("app-port", 0)
    with pytest.raises(FlagError, match="'much' is no quantity"):
        flags.bytes("max-body-size", 1)
