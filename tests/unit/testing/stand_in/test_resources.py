"""Resource files that can't be what they say: the error names the file, and what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from apibase.testing.stand_in.resources import ResourceError, read_resources


def written(folder: Path, text: str) -> Path:
    (folder / "store.yaml").write_text(text)
    return folder


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"there is no folder .*nowhere' of Dapr's resource files"):
        read_resources([tmp_path / "nowhere"], "desk")


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"store\.yaml"):
        read_resources([written(tmp_path, "kind: [Component")], "desk")


def test_a_component_without_a_name_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"store\.yaml: metadata\.name: a Component needs a name"):
        read_resources([written(tmp_path, "kind: Component\nspec: {type: state.redis, version: v1}\n")], "desk")


def test_a_component_of_another_app_is_not_loaded(tmp_path: Path) -> None:
    text = "kind: Component\nmetadata: {name: store}\nspec: {type: state.redis, version: v1}\nscopes: [other]\n"

    assert read_resources([written(tmp_path, text)], "desk").components == ()
    assert [each.name for each in read_resources([tmp_path], "other").components] == ["store"]
