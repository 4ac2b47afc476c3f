"""`apibase fake` takes what daprd takes."""

from __future__ import annotations

import re
import subprocess

import pytest

from apibase.local.binaries import SERIES, dapr_binaries
from apibase.testing.stand_in.daprd_flags import DaprdFlags, FlagError


@pytest.fixture(scope="module")
def flags_of_daprd() -> dict[str, bool]:
    """Return daprd's flags by name, and whether each takes a value, from its own help."""
    told = subprocess.run(
        [str(dapr_binaries(SERIES, print).daprd), "--help"], capture_output=True, text=True, check=False
    )
    found = re.findall(r"^ +--([\w-]+)( \w+)?  +", told.stdout + told.stderr, re.MULTILINE)
    assert len(found) > 40
    return {name: bool(value) for name, value in found}


@pytest.mark.req("R14.4")
def test_every_flag_of_daprd_is_taken(flags_of_daprd: dict[str, bool]) -> None:
    words = []
    for name, takes_value in flags_of_daprd.items():
        words += [f"--{name}", "1"] if takes_value else [f"--{name}"]

    flags = DaprdFlags.read(words)

    assert flags_of_daprd.keys() <= flags.values.keys() | set(flags.passed_over)


def test_switches_take_no_value_and_everything_else_does(flags_of_daprd: dict[str, bool]) -> None:
    for name, takes_value in flags_of_daprd.items():
        if takes_value:
            with pytest.raises(FlagError, match="needs an argument"):
                DaprdFlags.read([f"--{name}"])
        else:
            DaprdFlags.read([f"--{name}", f"--{name}=false"])
            with pytest.raises(FlagError, match="is no flag"):
                DaprdFlags.read([f"--{name}", "true"])
