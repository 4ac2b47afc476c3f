"""The local stack as a program uses it: everything up and down again, on real processes, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import collections
import signal
import tempfile
from pathlib import Path

import grpc.aio
import pytest

from apibase.local.errors import ChildDied
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from tests.sidecar.stack.toy_project import MARK, EchoCaller, Toy

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # As /proc writes 127.0.0.1 and ::ffff:127.0.0.1.


def addresses_listened_on(ports: set[int]) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if line.split()[3] == "0A" and int(port, 16) in ports:
                found.add(address)
    return found


def options(toy: Toy, monkeypatch: pytest.MonkeyPatch, **settings: object) -> StackOptions:
    monkeypatch.setenv(MARK, str(toy.temp))
    monkeypatch.setattr(tempfile, "tempdir", str(toy.temp))
    return StackOptions(**settings)


@pytest.mark.req("R14.1")
async def test_a_stack_starts_everything_and_two_replicas_share_the_calls(
    toy: Toy, echo: EchoCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options(toy, monkeypatch, replicas={"echo": 2}, env={"echo": {"TOY_OWN": "yes"}}, state_file=toy.state)
    async with Stack(read_topology(toy.root / "compose/dapr.yaml"), chosen) as stack:
        pids = collections.Counter([(await echo(stack)).pid for _ in range(40)])
        assert set(pids) == {stack.app("echo", 0).pid, stack.app("echo", 1).pid}
        assert min(pids.values()) >= 5, pids
        env = (await echo(stack)).env
        assert env["TOY_POSTGRES"].startswith(f"host={toy.temp}/")
        assert env["TOY_REDIS"].startswith("127.0.0.1:")
        assert (env["TOY_COLOUR"], env["TOY_OWN"]) == ("green", "yes")
        assert stack.app("echo", 1).log_path.read_text().startswith('{"level": "INFO", "message": "serving"')
        ports = {int(where.address.rpartition(":")[2]) for where in (stack.app("echo"), stack.app("other"))}
        ports |= {int(stack.sidecar("echo").grpc_address.rpartition(":")[2])}
        assert addresses_listened_on(ports) <= LOOPBACK
    assert toy.left_behind() == []


@pytest.mark.req("R14.1")
async def test_apps_and_sidecars_can_be_killed_and_started_again_on_purpose(
    toy: Toy, echo: EchoCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Stack(read_topology(toy.root / "compose/dapr.yaml"), options(toy, monkeypatch)) as stack:
        before = stack.app("echo"), stack.sidecar("echo")
        await stack.kill("echo")
        await stack.restart("echo")
        await stack.kill_sidecar("echo", signal.SIGKILL)
        await stack.restart_sidecar("echo")
        after = stack.app("echo"), stack.sidecar("echo")
        assert after[0].pid != before[0].pid
        assert after[1].pid != before[1].pid
        assert after[0].address == before[0].address
        assert (await echo(stack)).pid == after[0].pid
        assert stack.failure is None
    assert toy.left_behind() == []


@pytest.mark.req("R14.1")
async def test_a_child_that_dies_is_the_error_of_whatever_ran_meanwhile(
    toy: Toy, echo: EchoCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with Stack(read_topology(toy.root / "compose/dapr.yaml"), options(toy, monkeypatch)) as stack:
            await echo(stack, "die")
    assert hasattr(caught.value, "__notes__"), caught.value
    assert "echo ended with exit code 7: told to die" in caught.value.__notes__[0]
    assert toy.left_behind() == []


@pytest.mark.req("R14.1")
async def test_an_app_that_does_not_start_is_named_with_its_code_and_its_last_words(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options(toy, monkeypatch, env={"other": {"TOY_FAIL": "no database"}})
    with pytest.raises(ChildDied, match=r"(?s)other ended with exit code 3: cannot start.*no database"):
        async with Stack(read_topology(toy.root / "compose/dapr.yaml"), chosen):
            pytest.fail("it was up")
    assert toy.left_behind() == []


@pytest.mark.req("R14.1")
async def test_two_stacks_side_by_side_do_not_disturb_each_other(
    toy: Toy, echo: EchoCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = read_topology(toy.root / "compose/dapr.yaml")
    chosen = options(toy, monkeypatch, apps=frozenset({"echo", "caller"}))

    async def one() -> int:
        async with Stack(topology, chosen) as stack:
            assert (await echo(stack)).pid == stack.app("echo").pid
            ports.append(stack.app("echo").address)
            return stack.app("echo").pid

    ports: list[str] = []
    assert len(set(await asyncio.gather(one(), one(), one()))) == 3
    assert len(set(ports)) == 3
    assert toy.left_behind() == []
