"""The cache folder: where it is, and that half of a thing is never used."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from apibase.local.binaries.cache import cache_folder, ensure
from apibase.local.binaries.report import ToolMissing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.req("R14.1")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("APIBASE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def maker(*names: str) -> Callable[[Path], Path]:
    """Return a maker of a folder with these executables, which must get an empty scratch folder."""

    def make(scratch: Path) -> Path:
        assert list(scratch.iterdir()) == []
        made = scratch / "made"
        made.mkdir(mode=0o700)
        for name in names:
            (made / name).write_text("#!/bin/sh\n")
            (made / name).chmod(0o755)
        return made

    return make


def quiet(_: str) -> None:
    """Say nothing."""


def test_the_cache_is_where_the_variables_say_or_in_the_users_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == place
    monkeypatch.delenv("APIBASE_CACHE")
    assert cache_folder() == tmp_path / "xdg/apibase"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    usual = "Library/Caches" if sys.platform == "darwin" else ".cache"
    assert cache_folder() == tmp_path / usual / "apibase"


def test_what_is_there_whole_is_not_made_again(place: Path) -> None:
    folder = ensure("thing-1", ["one"], maker("one"), "thing", quiet)
    assert folder == place / "thing-1"
    assert folder.stat().st_mode & 0o777 == 0o755

    def never(_: Path) -> Path:
        raise AssertionError

    assert ensure("thing-1", ["one"], never, "thing", quiet) == folder


@pytest.mark.parametrize("damage", ["missing", "empty", "not executable"])
def test_what_lost_a_file_is_made_again(damage: str) -> None:
    folder = ensure("thing-1", ["one", "two"], maker("one", "two"), "thing", quiet)
    two = folder / "two"
    match damage:
        case "missing":
            two.unlink()
        case "empty":
            two.write_bytes(b"")
        case _:
            two.chmod(0o644)
    ensure("thing-1", ["one", "two"], maker("one", "two"), "thing", quiet)
    assert two.read_text() == "#!/bin/sh\n"
    assert two.stat().st_mode & 0o100


def test_leftovers_of_a_killed_process_are_removed_but_not_those_of_another_thing(place: Path) -> None:
    mine, other = place / "thing-1.part-abc", place / "thing-10.part-abc"
    for leftover in (mine, other):
        (leftover / "made").mkdir(parents=True)
    ensure("thing-1", ["one"], maker("one"), "thing", quiet)
    assert not mine.exists()
    assert other.exists()


def test_a_maker_that_forgets_a_file_leaves_nothing(place: Path) -> None:
    with pytest.raises(ToolMissing, match="thing-1 was made without two"):
        ensure("thing-1", ["one", "two"], maker("one"), "thing", quiet)
    assert [path.name for path in place.iterdir()] == ["thing-1.lock"]


def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("APIBASE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ToolMissing, match=r"^thing can't be put into the cache: .*APIBASE_CACHE names another folder"):
        ensure("thing-1", ["one"], maker("one"), "thing", quiet)
