"""Live configuration on the real daprd while its Redis, or the sidecar itself, goes away and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from apibase import ConfigurationManager, Settings, Sidecar
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from tests.plugins.stack_logs import running
from tests.sidecar.redis_server import RedisServer
from tests.sidecar.redis_values import RedisValues
from tests.unit.fake_dapr import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOPOLOGY = Path(__file__).parent / "configuration" / "compose" / "dapr.yaml"


@dataclass
class Live:
    """The sidecar, the Redis of its store `live`, and the values of both stores."""

    stack: Stack
    sidecar: Sidecar
    redis: RedisServer
    live: RedisValues
    defaults: RedisValues


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> AsyncIterator[Live]:
    async with RedisServer(tmp_path_factory.mktemp("redis")) as redis:
        environment.setenv("LIVE_REDIS_HOST", redis.address)  # so the stack starts none for it
        async with Stack(read_topology(TOPOLOGY), StackOptions()) as stack:
            running.append(stack)
            sidecar = Sidecar(Settings(app_id="live", dapr_grpc_endpoint=stack.sidecar("live").grpc_address))
            await sidecar.wait_ready(20)
            own = RedisValues(stack.environment("live")["REDIS_HOST"])
            yield Live(stack, sidecar, redis, RedisValues(redis.address), own)
            await sidecar.close()
            running.remove(stack)


@pytest.mark.req("R12.2", "R12.3", "R12.4")
async def test_a_store_that_is_away_leaves_its_last_values_and_says_so_until_it_is_back(live: Live) -> None:
    await live.live.set("threshold", "150", "v1")
    await live.defaults.set("threshold", "50")
    await live.defaults.set("currency", "EUR")
    configuration = ConfigurationManager(live.sidecar, ["live", "defaults"], check_every=60)
    threshold = configuration.key("threshold", int, default=100)
    currency = configuration.key("currency", str)

    async with configuration:
        assert (threshold.value, currency.value, configuration.degraded) == (150, "EUR", False)

        await live.redis.stop()
        await configuration.refresh()
        assert configuration.degraded
        # The higher one's last value, not the lower one's.
        assert (threshold.value, threshold.origin.source, threshold.origin.version) == (150, "cache", "v1")
        assert threshold.degraded
        assert configuration.problems.keys() == {"live"}
        # What the other store has changes all the same.
        await live.defaults.set("currency", "CHF")
        await eventually(lambda: currency.value == "CHF", 1.0)

        await live.redis.start()
        await eventually(lambda: not configuration.degraded, 10)
        assert (threshold.value, threshold.origin.source) == (150, "store")
        # A Redis that was started again tells of changes only because it is asked to again.
        for value in (160, 170, 180):
            await live.live.set("threshold", str(value), "v2")
            await eventually(lambda value=value: threshold.value == value, 1.0)  # type: ignore[misc]


@pytest.mark.req("R12.3")
async def test_a_start_without_the_store_has_the_last_good_values_of_the_file(live: Live, tmp_path: Path) -> None:
    file = tmp_path / "kept" / "configuration.json"
    await live.live.set("threshold", "170", "v3")

    def manager() -> ConfigurationManager:
        return ConfigurationManager(live.sidecar, ["live"], cache_file=file, check_every=1.0, first_read=2.0)

    first = manager()
    first.key("threshold", int)
    async with first:
        await eventually(file.exists)
    assert file.stat().st_mode & 0o777 == 0o600

    await live.redis.stop()
    second = manager()
    threshold = second.key("threshold", int)
    async with second:
        assert (threshold.value, second.degraded) == (170, True)
        assert (threshold.origin.source, threshold.origin.store, threshold.origin.version) == ("cache", "live", "v3")
        await live.redis.start()
        await eventually(lambda: not second.degraded, 10)
        assert threshold.origin.source == "store"


@pytest.mark.req("R12.2", "R12.3")
async def test_a_change_in_the_absence_of_the_sidecar_is_there_when_that_is_back(live: Live) -> None:
    await live.live.set("threshold", "1")
    configuration = ConfigurationManager(live.sidecar, ["live"], check_every=60)
    threshold = configuration.key("threshold", int)

    async with configuration:
        assert threshold.value == 1
        await live.stack.kill_sidecar("live")
        await eventually(lambda: configuration.degraded, 5)
        assert threshold.value == 1
        await live.live.set("threshold", "2")
        await live.stack.restart_sidecar("live")
        await eventually(lambda: threshold.value == 2 and not configuration.degraded, 5)
        await live.live.set("threshold", "3")
        await eventually(lambda: threshold.value == 3, 2)
