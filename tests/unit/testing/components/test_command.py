"""The mock components in a process of their own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import grpc
import pytest

from apibase.testing.components.__main__ import main
from dapr_components.v1 import secretstore_pb2
from tests.unit.testing.components.wire import connected


async def test_it_serves_with_what_is_to_go_wrong_until_it_is_told_to_end(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.json"
    secrets.write_text(json.dumps({"key": "k-1"}))
    folder = tmp_path / "s"
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "apibase.testing.components",
            str(folder),
            "--name",
            "shelf",
            "--secrets",
            str(secrets),
        ),
        *("--fault", "operation=secrets.get,status=UNAVAILABLE,message=sealed,times=1"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == f"mock components in {folder}\n".encode()
        async with connected(folder / "shelf.secrets", "SecretStore") as stub:
            with pytest.raises(grpc.aio.AioRpcError, match="sealed"):
                await stub.Get(secretstore_pb2.GetSecretRequest(key="key"))
            found = await stub.Get(secretstore_pb2.GetSecretRequest(key="key"))
            assert dict(found.data) == {"key": "k-1"}
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fault", "status=BROKEN"], "is none of operation"),
        (["--fault", "operation=state.get"], "does nothing"),
        (["--secrets", "nowhere.json"], "nowhere.json"),
    ],
)
def test_arguments_that_are_none_are_told(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path), *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
