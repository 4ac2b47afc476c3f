"""`apibase fake`: the stand-in sidecar as a process, started as daprd is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer
from loguru import logger

from apibase.cli.console import stdout_console
from apibase.cli.runner import Interruption, run_command
from apibase.local.errors import StackError

if TYPE_CHECKING:
    from apibase.testing.stand_in.daprd_flags import DaprdFlags
    from apibase.testing.stand_in.stand_in import StandIn

_LOOPBACK = "127.0.0.1"
_MAX_BODY = 4 * 1024 * 1024
_LEVELS = {"warn": "WARNING", "fatal": "CRITICAL"}


def fake(context: typer.Context) -> None:
    """Run a sidecar that keeps everything in memory, with the flags of daprd.

    It has Dapr's gRPC API as far as unit tests have it (docs/testing.md), and over HTTP health, metadata and invocation. Time is real.

    Heeded: --app-id, --app-port, --app-protocol, --app-channel-address, --dapr-grpc-port, --dapr-http-port, --dapr-listen-addresses,
    --resources-path (may be repeated), --unix-domain-socket, --enable-app-health-check, --app-health-probe-interval, --max-body-size,
    --log-level, --log-as-json, --version; DAPR_API_TOKEN and APP_API_TOKEN. Every other flag of daprd is accepted, and means nothing.
    Port 0 is a free one.

    --fault TEXT, which may be repeated, lets operations fail: operation=GetState,key=orders/*,status=UNAVAILABLE,rate=0.1 (or drop,
    disconnect, latency=0.2, times=3).

    Ctrl-C ends it, and is the normal way to do so.
    """
    from apibase.observability import configure_logging  # noqa: PLC0415 - what the command needs, its help does not
    from apibase.settings import Settings  # noqa: PLC0415
    from apibase.testing.stand_in.daprd_flags import DaprdFlags, FlagError  # noqa: PLC0415
    from apibase.testing.stand_in.metadata import VERSION  # noqa: PLC0415

    try:
        flags = DaprdFlags.read(context.args)
    except FlagError as error:
        raise typer.BadParameter(str(error)) from None
    if flags.switch("version"):
        typer.echo(VERSION)
        return
    level = flags.text("log-level", "info")
    configure_logging(
        Settings(
            app_id=flags.text("app-id", "app"),
            log_level=_LEVELS.get(level, level),
            log_format="json" if flags.switch("log-as-json") else "auto",
        )
    )

    async def command(interruption: Interruption) -> int:
        return await _run(flags, interruption)

    run_command(command)


# What is no option here is daprd's.
fake.context_settings = {"allow_extra_args": True, "ignore_unknown_options": True}  # type: ignore[attr-defined]


def _build(flags: DaprdFlags) -> StandIn:
    """Return the sidecar, which is not up yet. Raises `StackError` for what it can't be."""
    from apibase.testing.stand_in.stand_in import StandIn  # noqa: PLC0415 - as above

    try:
        sidecar = StandIn(
            app_id=flags.text("app-id", "app"),
            resources=flags.texts("resources-path"),
            host=(flags.texts("dapr-listen-addresses") or [_LOOPBACK])[0],
            grpc_port=flags.number("dapr-grpc-port", 50001),
            http_port=flags.number("dapr-http-port", 3500),
            socket_folder=flags.text("unix-domain-socket"),
            api_token=os.environ.get("DAPR_API_TOKEN", ""),
            app_token=os.environ.get("APP_API_TOKEN", ""),
            max_message_bytes=flags.bytes("max-body-size", _MAX_BODY),
            clock_runs=True,
        )
        for text in flags.values.get("fault", []):
            sidecar.faults.parse(text)
    except (OSError, ValueError) as error:
        raise StackError(str(error)) from error
    return sidecar


def _expect_app(flags: DaprdFlags, sidecar: StandIn) -> str:
    """Have the sidecar wait for its app, and return what is to be said of it."""
    port = flags.number("app-port", 0)
    if not port:
        return "no app: give --app-port for one"
    address = f"{flags.text('app-channel-address', _LOOPBACK)}:{port}"
    protocol = flags.text("app-protocol", "http")
    if not protocol.startswith("grpc"):
        sidecar.add_app(sidecar.app_id, http_url=f"http://{address}")
        return f"the app on {address} speaks {protocol}: it can be called; events go to gRPC apps only"
    probes, interval = flags.switch("enable-app-health-check"), flags.number("app-health-probe-interval", 5)
    sidecar.expect(address, probes=probes, interval=float(interval))
    return f"waits for the app on {address}"


async def _run(flags: DaprdFlags, interruption: Interruption) -> int:
    sidecar = _build(flags)
    try:
        await sidecar.start()
    except OSError as error:
        raise StackError(str(error)) from error
    try:
        interruption.normal = True
        app = _expect_app(flags, sidecar)
        stdout_console().print(f"{sidecar}; {app}; Ctrl-C ends it", markup=False, highlight=False, soft_wrap=True)
        if flags.passed_over:
            logger.debug("these flags mean nothing to the stand-in sidecar: {}", ", ".join(flags.passed_over))
        await sidecar.ended.wait()
    except (OSError, ValueError) as error:
        raise StackError(str(error)) from error
    finally:
        await sidecar.stop()
    return 0
