"""Live configuration: what decides a value, and what it is when stores, sidecar, values or files are not as they should be."""

from __future__ import annotations

import asyncio
import enum
import gc
import json
import weakref
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import grpc
import pytest
from dapr.proto import api_v1, common_v1
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter

from apibase import (
    App,
    ConfigurationInvalid,
    ConfigurationManager,
    ConfigurationMissing,
    ConfigurationStore,
    Settings,
    Sidecar,
    SidecarUnavailable,
)
from apibase.clients.configuration_key import parse
from apibase.deadline import deadline
from tests.unit.conftest import Desk, Log
from tests.unit.fake_dapr import FakeDapr, eventually


class Stores(FakeDapr):
    """A sidecar with configuration stores: their values, and the streams that tell of changes."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.values: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
        self.streams: list[tuple[str, asyncio.Queue[Any]]] = []
        self.away: set[str] = set()
        self.unwatchable: set[str] = set()
        self.mute: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.after_read: Any = None

    def change(self, store: str, key: str, value: str, version: str = "") -> None:
        self.values[store][key] = value, version
        item = common_v1.ConfigurationItem(value=value, version=version)
        for name, stream in self.streams:
            if name == store:
                stream.put_nowait(api_v1.SubscribeConfigurationResponse(id="1", items={key: item}))

    @property
    def reads(self) -> int:
        return sum(call.method == "GetConfiguration" for call in self.calls)

    def end_streams(self) -> None:
        for _, stream in self.streams:
            stream.put_nowait(None)

    async def GetConfiguration(self, request: Any, context: Any) -> Any:
        await self._take("GetConfiguration", request, context)
        if request.store_name in self.away:
            await context.abort(grpc.StatusCode.INTERNAL, "connection refused")
        found = {
            key: common_v1.ConfigurationItem(value=value, version=version)
            for key, (value, version) in self.values[request.store_name].items()
            if key in request.keys
        }
        await self.gate.wait()
        return api_v1.GetConfigurationResponse(items=found)

    async def SubscribeConfiguration(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._take("SubscribeConfiguration", request, context)
        if request.store_name in self.unwatchable:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "failed to subscribe")
        stream: asyncio.Queue[Any] = asyncio.Queue()
        mine = request.store_name, stream
        self.streams.append(mine)
        try:
            if request.store_name in self.mute:
                await asyncio.Event().wait()
            yield api_v1.SubscribeConfigurationResponse(id="1")
            while (message := await stream.get()) is not None:
                yield message
        finally:
            self.streams.remove(mine)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Limits(BaseModel):
    most: int
    each: timedelta = timedelta(seconds=1)


@pytest.fixture
async def stores(settings: Settings) -> AsyncIterator[Stores]:
    async with Stores(settings.sidecar_address) as fake:
        yield fake


@pytest.fixture
async def sidecar(settings: Settings, stores: Stores) -> AsyncIterator[Sidecar]:
    made = Sidecar(settings)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("100", int, 100),
        (" as it is ", str, " as it is "),
        ("123", str, "123"),
        ("1.5", float, 1.5),
        ("true", bool, True),
        ("off", bool, False),
        ("PT5S", timedelta, timedelta(seconds=5)),
        ("2.50", Decimal, Decimal("2.50")),
        ("blue", Colour, Colour.BLUE),
        ("[1, 2]", list[int], [1, 2]),
        ('{"a": 1}', dict[str, int], {"a": 1}),
        ('{"most": 3, "each": "PT2S"}', Limits, Limits(most=3, each=timedelta(seconds=2))),
        ("7", TypeAdapter(Annotated[int, Field(gt=0)]), 7),
    ],
)
def test_a_text_is_read_as_its_type(text: str, kind: Any, value: object) -> None:
    assert parse(text, kind) == value


def test_a_contract_s_message_is_json(desk: Desk) -> None:
    assert parse('{"text": "why", "number": 7}', desk.pb2.Asked) == desk.pb2.Asked(text="why", number=7)


@pytest.mark.req("R13.4")
@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("hush-hush", int, "valid integer"),
        ("hush-hush", bool, "valid boolean"),
        ("hush-hush", Colour, "'red' or 'blue'"),
        ('{"most": "hush-hush"}', Limits, "most: Input should be a valid integer"),
        ('{"hush-hush"', Limits, "Invalid JSON"),
        ("-7", TypeAdapter(Annotated[int, Field(gt=0)]), "greater than 0"),
    ],
)
def test_what_is_no_such_value_is_told_without_quoting_it(text: str, kind: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        parse(text, kind)

    assert text.strip("-") not in str(caught.value)
    assert "hush" not in str(caught.value)


def _by_name(text: str) -> int:
    return {"one": 1, "two": 2}[text]


ByName = TypeAdapter(Annotated[int, BeforeValidator(_by_name)])


class Odd(str):
    """A value that can't be compared."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise TypeError(str(self))


@pytest.mark.req("R13.4")
@pytest.mark.parametrize(
    ("kind", "says"), [(ByName, "failed with KeyError"), (Stores, "failed with PydanticSchemaGenerationError")]
)
def test_a_type_that_fails_in_its_own_way_is_told_by_the_error_s_name(kind: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        parse("hush-hush", kind)

    assert "hush" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.req("R12.2", "R13.4")
async def test_a_validator_that_fails_in_its_own_way_does_not_end_the_watch(
    sidecar: Sidecar, stores: Stores, log: Log
) -> None:
    stores.values["live"] = {"a": ("one", "v1")}
    configuration = ConfigurationManager(sidecar, ["live"], check_every=60)
    a, b = configuration.key("a", ByName), configuration.key("b", int, default=1)

    async with configuration:
        await eventually(lambda: stores.streams)
        stores.change("live", "a", "hush-hush")
        stores.change("live", "b", "2")
        await eventually(lambda: b.value == 2)
        assert (a.value, a.origin.source, a.degraded) == (1, "cache", True)
        assert isinstance(configuration.problems["a"], ConfigurationInvalid)
        stores.change("live", "a", "two")
        await eventually(lambda: a.value == 2)
        assert not configuration.degraded
    assert "hush" not in log.text


@pytest.mark.req("R12.2", "R13.4")
async def test_a_key_that_can_not_be_decided_does_not_keep_the_others_from_it(
    sidecar: Sidecar, stores: Stores, log: Log
) -> None:
    stores.values["live"] = {"a": ("hush-1", "")}
    configuration = ConfigurationManager(sidecar, ["live"], check_every=60)
    configuration.key("a", TypeAdapter(Annotated[str, AfterValidator(Odd)]))
    b = configuration.key("b", int, default=1)

    async with configuration:
        await eventually(lambda: stores.streams)
        for number in range(2, 5):
            stores.change("live", "a", f"hush-{number}")
            stores.change("live", "b", str(number))
            await eventually(lambda number=number: b.value == number)
    assert "the configuration key a can't be decided: TypeError" in log.text
    assert "hush" not in log.text


@pytest.mark.req("R13.4")
def test_what_is_no_message_is_told_without_quoting_it(desk: Desk) -> None:
    with pytest.raises(ValueError, match="number") as caught:
        parse('{"number": "hush-hush"}', desk.pb2.Asked)

    assert "hush" not in str(caught.value)


async def test_a_key_has_its_default_before_the_start(sidecar: Sidecar) -> None:
    configuration = ConfigurationManager(sidecar, ["live"])

    assert configuration.key("a", int, default=5).value == 5
    with pytest.raises(ConfigurationMissing):
        _ = configuration.key("b", int).value
    assert not configuration.degraded


async def test_a_key_is_declared_once_in_one_way_and_before_the_start(sidecar: Sidecar) -> None:
    configuration = ConfigurationManager(sidecar, ["live"])
    key = configuration.key("a", int, default=5)

    assert configuration.key("a", int, default=5) is key
    with pytest.raises(ValueError, match="'a' is declared already, in another way"):
        configuration.key("a", int, default=6)
    with pytest.raises(ValueError, match="has a name"):
        configuration.key("", int)
    async with configuration:
        with pytest.raises(RuntimeError, match="declare keys before that"):
            configuration.key("late", int)


def test_a_manager_has_stores_each_once(settings: Settings) -> None:
    sidecar = Sidecar(settings)
    with pytest.raises(ValueError, match="at least one store"):
        ConfigurationManager(sidecar, [])
    with pytest.raises(ValueError, match="named twice"):
        ConfigurationManager(sidecar, ["live", ConfigurationStore("live")])


async def test_only_the_declared_keys_are_asked_for_with_the_store_s_metadata(sidecar: Sidecar, stores: Stores) -> None:
    configuration = ConfigurationManager(sidecar, [ConfigurationStore("live", {"pgNotifyChannel": "settings"})])
    configuration.key("a", int, default=1)
    configuration.key("b", int, default=1)

    async with configuration:
        await eventually(lambda: stores.streams)

    for method in ("GetConfiguration", "SubscribeConfiguration"):
        request = stores.last(method).request
        assert (list(request.keys), dict(request.metadata)) == (["a", "b"], {"pgNotifyChannel": "settings"})


@pytest.mark.req("R12.3")
async def test_an_invalid_first_value_is_passed_over_for_the_next_store_and_the_default(
    sidecar: Sidecar, stores: Stores, log: Log
) -> None:
    stores.values["live"] = {"a": ("hush-hush", ""), "b": ("hush-hush", "")}
    stores.values["lower"] = {"a": ("7", "v1")}
    configuration = ConfigurationManager(sidecar, ["live", "lower"])
    a, b = configuration.key("a", int, default=1), configuration.key("b", int, default=2)

    async with configuration:
        assert (a.value, a.origin.store, b.value, b.origin.source) == (7, "lower", 2, "default")
        assert a.degraded
        assert configuration.problems.keys() == {"a", "b"}
        assert "'a' in 'live' is invalid" in str(configuration.problems["a"])
    assert "hush-hush" not in log.text


async def test_an_invalid_value_and_nothing_else_fails_the_start(sidecar: Sidecar, stores: Stores) -> None:
    stores.values["live"] = {"a": ("many", "")}
    configuration = ConfigurationManager(sidecar, ["live"])
    configuration.key("a", int)

    with pytest.raises(ConfigurationInvalid, match="'a' in 'live' is invalid") as caught:
        await configuration.start()

    assert (caught.value.key, caught.value.component) == ("a", "live")
    await configuration.stop()


async def test_a_missing_key_says_which_store_could_not_be_read(sidecar: Sidecar, stores: Stores) -> None:
    stores.away.add("live")
    configuration = ConfigurationManager(sidecar, ["live", "lower"])
    configuration.key("a", int)

    with pytest.raises(ConfigurationMissing, match="no value in live, lower: live can't be read"):
        await configuration.start()

    await configuration.stop()


async def test_a_value_that_nothing_can_replace_stays_when_it_is_taken_away(sidecar: Sidecar, stores: Stores) -> None:
    stores.values["live"] = {"a": ("7", "v1")}
    configuration = ConfigurationManager(sidecar, ["live"])
    key = configuration.key("a", int)

    async with configuration:
        await eventually(lambda: stores.streams)
        stores.change("live", "a", "")
        await eventually(lambda: key.degraded)
        assert (key.value, key.origin.source, key.origin.version) == (7, "cache", "v1")


@pytest.mark.req("R12.3")
async def test_a_lower_store_that_is_away_is_no_matter_of_what_the_higher_has(sidecar: Sidecar, stores: Stores) -> None:
    stores.values["live"] = {"a": ("7", "")}
    stores.away.add("lower")
    configuration = ConfigurationManager(sidecar, ["live", "lower"])
    a, b = configuration.key("a", int), configuration.key("b", int, default=1)

    async with configuration:
        assert (a.degraded, b.degraded, configuration.degraded) == (False, True, True)


@pytest.mark.req("R12.3")
async def test_a_store_that_does_not_answer_in_time_does_not_hold_the_start_up(
    sidecar: Sidecar, stores: Stores
) -> None:
    stores.gate.clear()
    configuration = ConfigurationManager(sidecar, ["live"], first_read=0.2)
    key = configuration.key("a", int, default=1)

    async with configuration:
        assert (key.value, configuration.degraded) == (1, True)
        stores.values["live"] = {"a": ("7", "")}
        stores.gate.set()
        await eventually(lambda: key.value == 7)
        await eventually(lambda: not configuration.degraded)


@pytest.mark.req("R12.3")
async def test_a_caller_s_little_time_is_no_matter_of_the_store(sidecar: Sidecar, stores: Stores, log: Log) -> None:
    stores.values["live"] = {"a": ("7", ""), "b": ("8", "")}
    configuration = ConfigurationManager(sidecar, ["live"], check_every=60)
    key = configuration.key("a", int)

    async with configuration:
        await eventually(lambda: stores.streams)
        assert await configuration.get("b", int) == 8
        stores.values["live"]["b"] = "9", ""
        reads = stores.reads
        stores.gate.clear()
        for left in (0.05, 0.0):
            token = deadline.set_remaining(left)
            try:
                assert await configuration.get("b", int) == 8  # what is known
                await configuration.refresh()
            finally:
                deadline.reset(token)
            assert (configuration.degraded, key.origin.source) == (False, "store")
        await eventually(lambda: stores.reads >= reads + 4)
        stores.gate.set()
        assert await configuration.get("b", int) == 9
    assert "can't be read" not in log.text


@pytest.mark.req("R12.3")
async def test_a_caller_who_gives_up_leaves_the_read_to_its_end(sidecar: Sidecar, stores: Stores) -> None:
    stores.values["live"] = {"a": ("7", "")}
    configuration = ConfigurationManager(sidecar, ["live"], check_every=60)
    key = configuration.key("a", int)

    async with configuration:
        await eventually(lambda: stores.streams)
        await eventually(lambda: stores.reads == 3)  # at the start, when the stream has begun, and soon after
        stores.values["live"]["a"] = "8", ""
        stores.gate.clear()
        asking = asyncio.create_task(configuration.refresh())
        await eventually(lambda: stores.reads == 4)
        asking.cancel()
        stores.gate.set()
        await eventually(lambda: key.value == 8)
        assert asking.cancelled()


async def test_who_asks_while_it_stops_has_what_is_known(sidecar: Sidecar, stores: Stores) -> None:
    stores.values["live"] = {"a": ("7", "")}
    configuration = ConfigurationManager(sidecar, ["live"], check_every=60)
    configuration.key("a", int)

    async with configuration:
        stores.gate.clear()
        reads = stores.reads
        asking = asyncio.create_task(configuration.get("a", int))
        await eventually(lambda: stores.reads > reads)
    stores.gate.set()

    assert await asking == 7


@pytest.mark.req("R12.2")
async def test_a_stream_that_ends_is_opened_again_and_what_changed_meanwhile_is_read(
    sidecar: Sidecar, stores: Stores
) -> None:
    configuration = ConfigurationManager(sidecar, ["live"], check_every=60)
    key = configuration.key("a", int, default=1)

    async with configuration:
        await eventually(lambda: stores.streams)
        stores.end_streams()
        await eventually(lambda: not stores.streams)
        stores.values["live"]["a"] = "2", ""  # nobody tells
        await eventually(lambda: stores.streams)
        await eventually(lambda: key.value == 2)
        stores.change("live", "a", "3")
        await eventually(lambda: key.value == 3)


@pytest.mark.req("R12.2", "R12.3")
async def test_a_sidecar_that_goes_away_and_comes_back_is_followed(sidecar: Sidecar, stores: Stores, log: Log) -> None:
    configuration = ConfigurationManager(sidecar, ["live"], check_every=60)
    key = configuration.key("a", int, default=1)

    async with configuration:
        await eventually(lambda: stores.streams)
        await stores.stop()
        await eventually(lambda: configuration.degraded)
        assert isinstance(configuration.problems["live"], SidecarUnavailable)
        stores.values["live"]["a"] = "2", ""
        await stores.start()
        await eventually(lambda: key.value == 2 and not configuration.degraded)

    assert len([line for line in log.lines if "can't be read; its last known values hold" in line["message"]]) == 1
    assert len([line for line in log.lines if "can be read again" in line["message"]]) == 1


@pytest.mark.req("R12.2")
async def test_a_store_that_can_not_be_watched_is_read_again_and_again(
    sidecar: Sidecar, stores: Stores, log: Log
) -> None:
    stores.unwatchable.add("live")
    configuration = ConfigurationManager(sidecar, ["live"], check_every=0.05)
    key = configuration.key("a", int, default=1)

    async with configuration:
        stores.values["live"]["a"] = "2", ""
        await eventually(lambda: key.value == 2)
        assert not configuration.degraded
        stores.values["live"]["a"] = "3", ""
        await eventually(lambda: key.value == 3)

    assert len([line for line in log.lines if "can't be watched, so it is read every" in line["message"]]) == 1


@pytest.mark.req("R12.2", "R12.3")
async def test_a_subscription_that_is_never_answered_leaves_the_store_read_again_and_again(
    sidecar: Sidecar, stores: Stores
) -> None:
    stores.mute.add("live")
    configuration = ConfigurationManager(sidecar, ["live"], check_every=0.05)
    key = configuration.key("a", int, default=1)

    async with configuration:
        await eventually(lambda: stores.streams)
        stores.values["live"]["a"] = "2", ""
        await eventually(lambda: key.value == 2)
        stores.away.add("live")
        await eventually(lambda: configuration.degraded)
        stores.away.clear()
        stores.values["live"]["a"] = "3", ""
        await eventually(lambda: key.value == 3 and not configuration.degraded)


@pytest.mark.req("R12.2")
async def test_an_answer_that_was_on_its_way_does_not_undo_a_newer_change(sidecar: Sidecar, stores: Stores) -> None:
    stores.values["live"] = {"a": ("1", "")}
    configuration = ConfigurationManager(sidecar, ["live"], check_every=60)
    key = configuration.key("a", int)

    async with configuration:
        await eventually(lambda: stores.streams)
        reads = len(stores.calls)
        stores.gate.clear()
        reading = asyncio.create_task(configuration.refresh())
        await eventually(lambda: len(stores.calls) > reads)
        stores.change("live", "a", "2")
        await eventually(lambda: key.value == 2)
        stores.gate.set()
        await reading
        assert key.value == 2


async def test_a_callback_that_fails_does_not_keep_the_others_from_being_called(
    sidecar: Sidecar, stores: Stores, log: Log
) -> None:
    configuration = ConfigurationManager(sidecar, ["live"])
    key = configuration.key("a", int, default=1)
    seen: list[tuple[int, int]] = []

    @key.on_change
    def fails(new: int, old: int) -> None:
        raise ValueError("of its own")

    @key.on_change
    async def follows(new: int, old: int) -> None:
        seen.append((new, old))

    async with configuration:
        await eventually(lambda: stores.streams)
        stores.change("live", "a", "2")
        stores.change("live", "a", "3")
        await eventually(lambda: seen == [(2, 1), (3, 2)])

    assert len([line for line in log.lines if "when a changes failed with ValueError" in line["message"]]) == 2


async def test_a_callback_that_is_cancelled_does_not_keep_later_changes_from_being_told(
    sidecar: Sidecar, stores: Stores, log: Log
) -> None:
    configuration = ConfigurationManager(sidecar, ["live"])
    key = configuration.key("a", int, default=1)
    seen: list[int] = []

    @key.on_change
    async def gives_up(new: int, old: int) -> None:
        raise asyncio.CancelledError

    key.on_change(lambda new, _old: seen.append(new))

    async with configuration:
        await eventually(lambda: stores.streams)
        stores.change("live", "a", "2")
        stores.change("live", "a", "3")
        await eventually(lambda: seen == [2, 3])

    assert len([line for line in log.lines if "when a changes was cancelled" in line["message"]]) == 2


async def test_a_callback_that_takes_long_does_not_hold_the_stop_up(sidecar: Sidecar, stores: Stores) -> None:
    configuration = ConfigurationManager(sidecar, ["live"])
    key = configuration.key("a", int, default=1)
    began = asyncio.Event()

    @key.on_change
    async def takes_long(new: int, old: int) -> None:
        began.set()
        await asyncio.Event().wait()

    async with configuration:
        await eventually(lambda: stores.streams)
        stores.change("live", "a", "2")
        await began.wait()
        await asyncio.wait_for(configuration.stop(), 2)


@pytest.mark.req("R12.2")
async def test_what_was_stopped_can_be_started_again(sidecar: Sidecar, stores: Stores) -> None:
    configuration = ConfigurationManager(sidecar, ["live"], check_every=60)
    key = configuration.key("a", int, default=1)
    told: list[int] = []
    key.on_change(lambda new, _old: told.append(new))
    async with configuration:
        await eventually(lambda: stores.streams)
    await eventually(lambda: not stores.streams)
    stores.values["live"]["a"] = "2", ""
    seen: list[int] = []

    async def follow() -> None:
        async for value in key.changes():
            seen.append(value)  # noqa: PERF401 - as they come

    async with configuration:
        following = asyncio.create_task(follow())
        assert key.value == 2
        await eventually(lambda: stores.streams)
        stores.change("live", "a", "3")
        await eventually(lambda: (seen, told) == ([3], [2, 3]))
    await asyncio.wait_for(following, 2)


async def test_a_start_that_failed_can_be_made_again(sidecar: Sidecar, stores: Stores) -> None:
    configuration = ConfigurationManager(sidecar, ["live"], check_every=60)
    key = configuration.key("a", int)
    with pytest.raises(ConfigurationMissing):
        await configuration.start()
    stores.values["live"] = {"a": ("7", "")}

    async with configuration:
        assert key.value == 7
        await eventually(lambda: stores.streams)


async def test_two_who_start_it_at_once_start_it_once(sidecar: Sidecar, stores: Stores) -> None:
    before = asyncio.all_tasks()
    configuration = ConfigurationManager(sidecar, ["live"], check_every=60)
    configuration.key("a", int, default=1)

    await asyncio.gather(configuration.start(), configuration.start())
    await configuration.stop()

    ours = {task for task in asyncio.all_tasks() - before if "apibase/clients/configuration" in repr(task)}
    assert not ours
    assert stores.reads == 1


async def test_the_same_value_again_is_no_change(sidecar: Sidecar, stores: Stores) -> None:
    stores.values["live"] = {"a": ("7", "v1")}
    configuration = ConfigurationManager(sidecar, ["live"])
    key = configuration.key("a", int)
    seen: list[int] = []
    key.on_change(lambda new, _old: seen.append(new))

    async with configuration:
        await eventually(lambda: stores.streams)
        stores.change("live", "a", "7", "v2")
        await eventually(lambda: key.origin.version == "v2")
        stores.change("live", "a", "8", "v3")
        await eventually(lambda: seen == [8])


@pytest.mark.req("R13.4")
async def test_a_change_is_logged_without_its_value(sidecar: Sidecar, stores: Stores, log: Log) -> None:
    configuration = ConfigurationManager(sidecar, ["live"])
    key = configuration.key("partner", str, default="none")

    async with configuration:
        await eventually(lambda: stores.streams)
        stores.change("live", "partner", "hush-hush", "v9")
        await eventually(lambda: key.value == "hush-hush")

    line = log.one(message="configuration key partner has changed, by live")
    assert (line["store"], line["version"]) == ("live", "v9")
    assert "hush-hush" not in log.text
    assert "hush-hush" not in repr(key)


@pytest.mark.req("R12.3")
async def test_what_was_asked_for_once_is_remembered_while_the_store_is_away(sidecar: Sidecar, stores: Stores) -> None:
    stores.values["live"] = {"a": ("7", "")}
    configuration = ConfigurationManager(sidecar, ["live"])
    assert await configuration.get("a", int, default=1) == 7

    stores.away.add("live")

    assert await configuration.get("a", int, default=1) == 7
    assert await configuration.get("b", int, default=1) == 1


async def test_each_who_asks_has_their_own_default(sidecar: Sidecar, stores: Stores) -> None:
    configuration = ConfigurationManager(sidecar, ["live"])
    declared = configuration.key("declared", int, default=3)

    assert await asyncio.gather(*(configuration.get("a", int, number) for number in (1, 2))) == [1, 2]
    assert await configuration.get("b", int, 7) == 7
    with pytest.raises(ConfigurationMissing):
        await configuration.get("b", int)
    assert await configuration.get("declared", int) == 3
    assert await configuration.get("declared", int, 4) == 4
    assert await configuration.get("declared", str, "five") == "five"
    assert declared.value == 3


async def test_a_value_that_was_asked_for_and_is_taken_away_is_missing(sidecar: Sidecar, stores: Stores) -> None:
    stores.values["live"] = {"a": ("7", "")}
    configuration = ConfigurationManager(sidecar, ["live"])
    assert await configuration.get("a", int) == 7

    stores.values["live"] = {}

    with pytest.raises(ConfigurationMissing):
        await configuration.get("a", int)


@pytest.mark.req("R12.3")
async def test_asking_in_a_type_of_its_own_each_time_keeps_one_last_good_value(
    sidecar: Sidecar, stores: Stores, log: Log
) -> None:
    stores.values["live"] = {"a": ("7", "")}
    configuration = ConfigurationManager(sidecar, ["live"])
    kinds = [weakref.ref(kind) for kind in [await _asked(configuration) for _ in range(3)]]
    gc.collect()
    assert not any(kind() for kind in kinds)

    stores.values["live"] = {"a": ("many", "")}

    for _ in range(3):
        assert await configuration.get("a", TypeAdapter(int)) == 7
    assert len([line for line in log.lines if "the last good value holds" in line["message"]]) == 1


async def _asked(configuration: ConfigurationManager) -> TypeAdapter[int]:
    kind = TypeAdapter(int)
    assert await configuration.get("a", kind) == 7
    return kind


@pytest.mark.req("R12.3")
async def test_the_file_has_the_last_good_value_where_the_store_has_an_invalid_one(
    sidecar: Sidecar, stores: Stores, tmp_path: Path
) -> None:
    file = tmp_path / "kept.json"
    stores.values["live"] = {"a": ("7", "v1")}

    def manager() -> ConfigurationManager:
        return ConfigurationManager(sidecar, ["live"], cache_file=file)

    first = manager()
    key = first.key("a", int)
    async with first:
        await eventually(lambda: stores.streams)
        stores.change("live", "a", "8", "v2")
        await eventually(lambda: key.value == 8)
        stores.change("live", "a", "many", "v3")
        await eventually(lambda: first.degraded)
    second = manager()
    again = second.key("a", int)
    async with second:
        assert (again.value, again.origin.source, again.origin.version) == (8, "cache", "v2")
    assert list(tmp_path.iterdir()) == [file]  # noqa: ASYNC240 - of a test


@pytest.mark.req("R12.3")
@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"live": {"a": {}}}', '{"live": 3}', '{"live": {"a": {"value": 1}}}']
)
async def test_a_file_that_can_not_be_read_is_passed_over(
    sidecar: Sidecar, stores: Stores, tmp_path: Path, log: Log, content: str
) -> None:
    file = tmp_path / "kept.json"
    file.write_text(content)
    stores.values["live"] = {"a": ("7", "")}
    configuration = ConfigurationManager(sidecar, ["live"], cache_file=file)
    key = configuration.key("a", int)

    async with configuration:
        assert key.value == 7
        await eventually(lambda: file.read_text() != content)

    assert json.loads(file.read_text())["live"]["a"]["value"] == "7"
    assert "can't be read" in log.text


async def test_a_file_that_can_not_be_written_is_told_and_no_more(
    sidecar: Sidecar, stores: Stores, tmp_path: Path, log: Log
) -> None:
    (tmp_path / "file").touch()
    stores.values["live"] = {"a": ("7", "")}
    configuration = ConfigurationManager(sidecar, ["live"], cache_file=tmp_path / "file" / "kept.json")
    key = configuration.key("a", int)

    async with configuration:
        await eventually(lambda: "can't be kept" in log.text)
        assert key.value == 7


async def test_iterators_end_with_the_manager_and_tasks_are_gone(sidecar: Sidecar, stores: Stores) -> None:
    before = asyncio.all_tasks()
    configuration = ConfigurationManager(sidecar, ["live", "lower"])
    key = configuration.key("a", int, default=1)

    async def follow() -> list[int]:
        return [value async for value in key.changes()]

    async with configuration:
        following = asyncio.create_task(follow())
        await eventually(lambda: len(stores.streams) == 2)

    assert await asyncio.wait_for(following, 2) == []
    await eventually(lambda: not stores.streams)
    ours = {task for task in asyncio.all_tasks() - before if "apibase/clients/configuration" in repr(task)}
    assert not ours


@pytest.mark.req("R12.1")
async def test_an_app_s_configuration_is_there_before_it_is_ready_and_ends_with_it(
    settings: Settings, stores: Stores
) -> None:
    stores.values["live"] = {"a": ("7", "")}
    app = App(settings)
    key = app.configuration("live").key("a", int)
    seen: list[tuple[int, bool]] = []

    @app.before_ready
    async def hook() -> None:
        seen.append((key.value, app.health.ready))

    try:
        await app.start()
        await eventually(lambda: stores.streams)
    finally:
        await app.stop()

    assert seen == [(7, False)]
    await eventually(lambda: not stores.streams)


async def test_an_app_does_not_start_without_a_value_that_it_needs(settings: Settings, stores: Stores) -> None:
    app = App(settings)
    app.configuration("live").key("a", int)

    try:
        with pytest.raises(ConfigurationMissing, match="'a' has no default"):
            await app.start()
        assert not app.health.ready
    finally:
        await app.stop()
