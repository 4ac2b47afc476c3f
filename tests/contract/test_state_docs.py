"""docs/state.md: its examples, in their order, do what they say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from apibase import StateManager
from tests.contract.sides import Side

PAGE = (Path(__file__).parents[2] / "docs/state.md").read_text(encoding="utf-8")
STORES = {"statestore": "postgres", "archive": "postgres1"}


class Shown:
    """The `app` of the page."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def state(self, name: str) -> StateManager:
        return StateManager(self._side.sidecar, STORES[name])


@pytest.mark.req("R4.1", "R4.2", "R4.3", "R4.4", "R4.5", "R4.6")
async def test_the_examples_of_the_page_do_what_they_say(side: Side) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {"app": Shown(side), "__name__": "examples"}

    for number, example in enumerate(examples, 1):
        code = compile(example, f"example {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        running = eval(code, names)
        if running is not None:
            await running

    assert len(examples) == 8
    assert {"written", "found", "page", "saved"} <= set(names)
