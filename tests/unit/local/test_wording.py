"""Words that messages share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from apibase.local.wording import apibase, genitive


def test_genitives() -> None:
    assert [genitive(name) for name in ("orders", "storefront", "orders.0")] == [
        "orders'",
        "storefront's",
        "orders.0's",
    ]


def test_what_is_to_be_pasted_is_what_this_shell_can_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["/a b/bin/apibase", "up"])
    assert apibase() == "'/a b/bin/apibase'"
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert apibase() == "apibase"
    (tmp_path / "apibase").touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [".venv/bin/apibase"])
    assert apibase() == "apibase"
