"""Live configuration: what the stores have, in the order of their priority, and changes as they are made."""

from __future__ import annotations

import asyncio
import time

import pytest
from pydantic import BaseModel

from apibase import ConfigurationManager, ConfigurationMissing
from apibase.clients import Origin
from tests.contract.sides import Side
from tests.unit.fake_dapr import eventually


class Limits(BaseModel):
    most: int
    names: list[str] = []


def no_time(origin: Origin) -> tuple[str, str, str]:
    return origin.source, origin.store, origin.version


@pytest.mark.req("R12.1")
async def test_a_value_is_read_from_the_store_with_its_version(side: Side) -> None:
    number, text, model = (side.key(name) for name in ("number", "text", "model"))
    await side.set_configuration(number, "150", version="v7")
    await side.set_configuration(text, "hello there")
    await side.set_configuration(model, '{"most": 3, "names": ["ann", "bob"]}')
    configuration = ConfigurationManager(side.sidecar, ["settings"])
    threshold = configuration.key(number, int, default=100)
    greeting = configuration.key(text, str)
    limits = configuration.key(model, Limits)

    async with configuration:
        assert (threshold.value, greeting.value) == (150, "hello there")
        assert limits.value == Limits(most=3, names=["ann", "bob"])
        assert no_time(threshold.origin) == ("store", "settings", "v7")
        assert threshold.origin.at is not None
        assert not configuration.degraded


@pytest.mark.req("R12.1", "R12.3")
async def test_a_key_that_no_store_has_is_its_default(side: Side) -> None:
    configuration = ConfigurationManager(side.sidecar, ["settings", "defaults"])
    threshold = configuration.key(side.key(), int, default=100)

    async with configuration:
        assert threshold.value == 100
        assert no_time(threshold.origin) == ("default", "", "")
        assert not threshold.degraded


async def test_a_key_without_a_value_or_a_default_fails_the_start(side: Side) -> None:
    name = side.key()
    configuration = ConfigurationManager(side.sidecar, ["settings", "defaults"])
    configuration.key(name, int)

    with pytest.raises(ConfigurationMissing, match=f"'{name}' has no default and no value in settings, defaults"):
        await configuration.start()

    await configuration.stop()


async def test_a_key_is_read_once_without_being_declared(side: Side) -> None:
    name = side.key()
    await side.set_configuration(name, "7", store="defaults")
    configuration = ConfigurationManager(side.sidecar, ["settings", "defaults"])

    assert await configuration.get(name, int) == 7
    await side.set_configuration(name, "8")
    assert await configuration.get(name, int) == 8
    with pytest.raises(ConfigurationMissing):
        await configuration.get(side.key(), int)
    assert await configuration.get(side.key(), int, default=5) == 5


@pytest.mark.req("R12.2")
async def test_a_change_arrives_within_a_second_without_a_restart(side: Side) -> None:
    name = side.key()
    await side.set_configuration(name, "1")
    # So rarely read again that what arrives comes by the stream.
    configuration = ConfigurationManager(side.sidecar, ["settings"], check_every=60)
    key = configuration.key(name, int)
    seen: list[tuple[int, int]] = []
    key.on_change(lambda new, old: seen.append((new, old)))

    async with configuration:
        for value in (2, 3, 4):
            began = time.monotonic()
            await side.set_configuration(name, str(value), version=f"v{value}")
            await eventually(lambda value=value: key.value == value, 1.0)  # type: ignore[misc]
            assert time.monotonic() - began < 1.0
            assert key.origin.version == f"v{value}"
        await eventually(lambda: seen == [(2, 1), (3, 2), (4, 3)])


@pytest.mark.req("R12.2")
async def test_changes_can_be_iterated_over(side: Side) -> None:
    name = side.key()
    configuration = ConfigurationManager(side.sidecar, ["settings"])
    key = configuration.key(name, str, default="none")
    seen: list[str] = []

    async def follow() -> None:
        async for value in key.changes():
            seen.append(value)  # noqa: PERF401 - one at a time

    async with configuration:
        following = asyncio.create_task(follow())
        await side.set_configuration(name, "a")
        await eventually(lambda: seen == ["a"])
        await side.set_configuration(name, "b")
        await eventually(lambda: seen == ["a", "b"])

    await asyncio.wait_for(following, 2)


@pytest.mark.req("R12.4")
async def test_the_first_store_that_has_a_key_decides(side: Side) -> None:
    both, lower = side.key("both"), side.key("lower")
    await side.set_configuration(both, "high")
    await side.set_configuration(both, "low", store="defaults")
    await side.set_configuration(lower, "low", store="defaults")
    configuration = ConfigurationManager(side.sidecar, ["settings", "defaults"])
    of_both, of_lower = configuration.key(both, str), configuration.key(lower, str)

    async with configuration:
        assert (of_both.value, of_both.origin.store) == ("high", "settings")
        assert (of_lower.value, of_lower.origin.store) == ("low", "defaults")


@pytest.mark.req("R12.4")
async def test_a_value_that_is_taken_away_falls_back_to_the_next_store_and_then_to_the_default(side: Side) -> None:
    name = side.key()
    await side.set_configuration(name, "high")
    await side.set_configuration(name, "low", store="defaults")
    configuration = ConfigurationManager(side.sidecar, ["settings", "defaults"])
    key = configuration.key(name, str, default="default")

    async with configuration:
        assert key.value == "high"
        await side.set_configuration(name, None)
        await eventually(lambda: key.value == "low")
        await side.set_configuration(name, None, store="defaults")
        await eventually(lambda: key.value == "default")
        await side.set_configuration(name, "back")
        await eventually(lambda: key.value == "back")
        assert not configuration.degraded


@pytest.mark.req("R12.3")
async def test_an_invalid_value_leaves_the_last_good_one(side: Side) -> None:
    name = side.key()
    await side.set_configuration(name, "10", version="v1")
    configuration = ConfigurationManager(side.sidecar, ["settings"])
    key = configuration.key(name, int, default=1)

    async with configuration:
        await side.set_configuration(name, "plenty", version="v2")
        await eventually(lambda: configuration.degraded)
        assert key.value == 10
        assert no_time(key.origin) == ("cache", "settings", "v1")
        assert key.problem is not None
        assert (key.problem.key, key.problem.component) == (name, "settings")
        assert "plenty" not in str(key.problem)
        await side.set_configuration(name, "20")
        await eventually(lambda: key.value == 20)
        assert not configuration.degraded


@pytest.mark.req("R12.3")
async def test_a_store_that_is_not_loaded_leaves_what_the_others_have(side: Side) -> None:
    name, absent = side.key(), side.key()
    await side.set_configuration(name, "7")
    configuration = ConfigurationManager(side.sidecar, ["nowhere", "settings"])
    key, other = configuration.key(name, int), configuration.key(absent, int, default=3)

    async with configuration:
        assert (key.value, other.value) == (7, 3)
        assert configuration.problems.keys() == {"nowhere"}
        assert key.degraded
        await side.set_configuration(name, "8")
        await eventually(lambda: key.value == 8)
