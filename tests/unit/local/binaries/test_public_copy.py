"""Tools for another user: who can reach a path, and a copy that nobody else can plant files in."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apibase.local.binaries import PostgresBinaries, ToolMissing, postgres_for, public_copy, reachable_by
from apibase.local.binaries import public_copies as module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.req("R14.1")

SOMEBODY = 54_321
"""A user who owns nothing and is in no group."""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a shared folder of its own."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(module, "_SHARED_FOLDER", folder)
    return folder


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give the test a folder that every user can reach, which pytest's own isn't."""
    folder = Path(tempfile.mkdtemp(prefix="apibase-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """Give the test a tool in a folder that is closed to others."""
    folder = tmp_path / "tool"
    (folder / "bin").mkdir(parents=True)
    (folder / "lib").mkdir()
    (folder / "bin/run").write_text("#!/bin/sh\n")
    (folder / "bin/run").chmod(0o700)
    (folder / "bin/link").symlink_to("run")
    (folder / "lib/data").write_text("data")
    (folder / "lib/data").chmod(0o666)
    folder.chmod(0o700)
    return folder


def place_of(shared: Path, key: str) -> Path:
    return shared / f"apibase-{'root' if os.geteuid() == 0 else os.geteuid()}-{key}"


def test_a_copy_is_open_to_all_for_reading_and_to_us_alone_for_writing(shared: Path, tool: Path) -> None:
    copy = public_copy(tool, "tool-1")
    assert copy == place_of(shared, "tool-1")
    modes = {
        str(path.relative_to(copy)): path.lstat().st_mode & 0o777 for path in copy.rglob("*") if not path.is_symlink()
    }
    assert modes == {"bin": 0o755, "lib": 0o755, "bin/run": 0o755, "lib/data": 0o644}
    assert (copy.stat().st_mode & 0o777, copy.stat().st_uid) == (0o755, os.geteuid())
    assert (copy / "bin/link").readlink() == Path("run")
    assert [path.name for path in shared.iterdir()] == [copy.name]


def test_a_copy_is_made_once(shared: Path, tool: Path) -> None:
    first = public_copy(tool, "tool-1").stat().st_ino
    assert public_copy(tool, "tool-1").stat().st_ino == first
    assert len(list(shared.iterdir())) == 1


def test_a_copy_that_lost_files_is_made_again(shared: Path, tool: Path) -> None:
    copy = public_copy(tool, "tool-1")
    (copy / "lib/data").unlink()
    assert (public_copy(tool, "tool-1") / "lib/data").read_text() == "data"
    assert len(list(shared.iterdir())) == 1


def plant_link(place: Path) -> None:
    (place.parent / "elsewhere").mkdir()
    place.symlink_to(place.parent / "elsewhere")


def plant_file(place: Path) -> None:
    place.touch()


def plant_writable(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)


def plant_as_another_user(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's folder")
    place.mkdir()
    (place / "bin").mkdir()
    os.chown(place, SOMEBODY, SOMEBODY)


@pytest.mark.parametrize("plant", [plant_link, plant_file, plant_writable, plant_as_another_user])
def test_what_another_user_may_have_planted_is_refused(shared: Path, tool: Path, plant: Callable[[Path], None]) -> None:
    place = place_of(shared, "tool-1")
    plant(place)
    with pytest.raises(ToolMissing, match=f"^{place} is not a folder that user .* alone can write"):
        public_copy(tool, "tool-1")
    assert not (place / "bin/run").exists()


def test_a_shared_folder_where_anyone_can_rename_is_refused(shared: Path, tool: Path) -> None:
    shared.chmod(0o777)
    with pytest.raises(ToolMissing, match=f"^{shared} can be changed by any user"):
        public_copy(tool, "tool-1")


def test_a_path_is_reachable_when_every_folder_on_the_way_lets_the_user_pass(open_folder: Path) -> None:
    (open_folder / "bin").mkdir()
    file = open_folder / "bin/run"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    assert reachable_by(file, SOMEBODY)
    open_folder.chmod(0o711)
    assert reachable_by(file, SOMEBODY)
    open_folder.chmod(0o700)
    assert not reachable_by(file, SOMEBODY)
    assert reachable_by(file, os.geteuid())
    assert reachable_by(file, 0)


def test_a_path_is_not_reachable_when_the_file_itself_is_closed_or_missing(open_folder: Path) -> None:
    file = open_folder / "run"
    assert not reachable_by(file, SOMEBODY)
    file.write_text("#!/bin/sh\n")
    file.chmod(0o711)
    assert not reachable_by(file, SOMEBODY)


def test_a_link_is_reachable_only_with_what_it_leads_to(open_folder: Path) -> None:
    (open_folder / "closed").mkdir()
    (open_folder / "closed/run").write_text("#!/bin/sh\n")
    (open_folder / "closed/run").chmod(0o755)
    (open_folder / "closed").chmod(0o700)
    (open_folder / "link").symlink_to(open_folder / "closed/run")
    assert not reachable_by(open_folder / "link", SOMEBODY)


def test_postgresql_is_copied_whole_for_a_user_who_cannot_reach_it(shared: Path, tool: Path) -> None:
    (tool / "bin/postgres").write_text("#!/bin/sh\n")
    found = PostgresBinaries("16.14", "PyPI", tool / "bin", tool)
    moved = postgres_for(found, SOMEBODY)
    assert moved == PostgresBinaries("16.14", "PyPI", place_of(shared, "tool") / "bin", place_of(shared, "tool"))
    assert (moved.bin_dir / "../lib/data").exists()
    assert postgres_for(found, 0) == found
