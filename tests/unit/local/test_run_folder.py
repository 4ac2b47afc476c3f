"""The folder of one run: short, without spaces, and gone at the end."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from apibase.local.run_folder import make_run_folder, remove_run_folder


@pytest.mark.parametrize("name", ["with space", "long-" * 20])
def test_a_temp_folder_that_sockets_or_dapr_cannot_have_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    folder = make_run_folder()
    try:
        assert folder.parent == Path("/tmp")
    finally:
        remove_run_folder(folder)
    assert not folder.exists()


def test_a_run_folder_is_where_temporary_files_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as parent:
        monkeypatch.setattr(tempfile, "tempdir", parent)
        folder = make_run_folder()
        assert folder.parent == Path(parent)
        remove_run_folder(folder)
