"""`apibase call`: one rpc through a sidecar, JSON in and JSON out."""

from __future__ import annotations

import base64
import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import grpc.aio
import typer

from apibase.cli.choices import TopologyFile, find_project, read_seconds
from apibase.cli.console import stderr_console, stdout_console
from apibase.cli.contracts import Contracts, Method
from apibase.cli.discovery import CHANNEL_OPTIONS, serving_apps
from apibase.cli.rpc_errors import describe
from apibase.cli.runner import Interruption, run_command
from apibase.local.errors import StackError
from apibase.local.ports import LOOPBACK
from apibase.local.state_file import InstanceState, StackState, running_stack
from apibase.local.topology import read_topology

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from google.protobuf.message import Message

Metadata = tuple[tuple[str, str | bytes], ...]
_NAME = re.compile(r"[a-z0-9._-]+")
_NOT_THERE = {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN}
"""How a call of an app that has no such method, or of none at all, ends."""


def call(  # noqa: PLR0913
    rpc: Annotated[str, typer.Argument(metavar="SERVICE/METHOD", help="Such as shop.orders.v1.OrderService/GetOrder.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            metavar="JSON",
            help="The request as JSON; @FILE or @- (standard input) to read it. A client stream: one JSON a line.",
        ),
    ] = "{}",
    app_id: Annotated[
        str | None, typer.Option("--app-id", metavar="APP", help="The app to call; default: the one that serves it.")
    ] = None,
    caller: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="APP", help="Call through this app's sidecar; default: that of an app without a command."
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            metavar="'NAME: VALUE'",
            help="Send metadata; that of a name in -bin as Base64; repeatable.",
        ),
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="The deadline: 5s, 500ms, 1m.")] = "10s",
    file: TopologyFile = None,
    *,
    metadata_out: Annotated[
        bool, typer.Option("--metadata-out", help="Print the metadata of the answer to standard error.")
    ] = False,
) -> None:
    """Call an rpc of the stack that is up, as another app would: through a sidecar.

    The answer is printed as JSON, a stream as one JSON a line. The call begins a trace, whose id is on standard error: the
    logs of every app that it went through have it. A call that fails tells code, message and details there, and the exit code
    is 1.
    """
    project = find_project(file)
    seconds = read_seconds(timeout)
    headers = read_headers(header or ())

    async def command(_: Interruption) -> int:
        state = running_stack(project.state_file)
        contracts = Contracts(project.descriptors)
        method = contracts.method(rpc)
        requests = [contracts.parse(method.request, text) for text in _texts(data, method)]
        sidecar = calling_sidecar(state, caller)
        trace = secrets.token_hex(16)
        address = f"{LOOPBACK}:{sidecar.grpc_port}"
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            target = known_app(state, app_id, "--app-id") if app_id else await _find_app(channel, state, method)
            metadata: Metadata = (
                ("dapr-app-id", target),
                ("traceparent", f"00-{trace}-{secrets.token_hex(8)}-01"),
                *((("dapr-stream", "true"),) if method.client_streams or method.server_streams else ()),
                *headers,
            )
            stderr_console().print(f"[dim]trace: {trace}[/]")
            outgoing = Outgoing(channel, method, metadata, seconds)
            try:
                await _print_answers(outgoing, requests, contracts, show_metadata=metadata_out)
            except grpc.aio.AioRpcError as error:
                if metadata_out:
                    _print_metadata("trailing", error.trailing_metadata())
                for line in describe(error, contracts.pool):
                    stderr_console().print(line, markup=False)
                if (
                    app_id
                    and error.code() in _NOT_THERE
                    and (hint := await _who_serves(channel, state, method, target))
                ):
                    stderr_console().print(hint, markup=False)
                return 1
        return 0

    run_command(command)


class Outgoing:
    """A call of any of the four kinds, with its answers as one stream."""

    def __init__(self, channel: grpc.aio.Channel, method: Method, metadata: Metadata, seconds: float) -> None:
        kinds: dict[tuple[bool, bool], Any] = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
            (True, True): channel.stream_stream,
        }
        make = kinds[method.client_streams, method.server_streams]
        self._start = make(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        self.method = method
        self._options = {"metadata": metadata, "timeout": seconds}
        self._call: Any = None

    async def answers(self, requests: Sequence[Message]) -> AsyncIterator[Message]:
        """Send, and yield what comes back."""
        self._call = self._start(iter(requests) if self.method.client_streams else requests[0], **self._options)
        if self.method.server_streams:
            async for message in self._call:
                yield message
        else:
            yield await self._call

    async def metadata(self) -> tuple[Any, Any]:
        """The answer's initial and trailing metadata."""
        return await self._call.initial_metadata(), await self._call.trailing_metadata()


async def _print_answers(
    outgoing: Outgoing, requests: Sequence[Message], contracts: Contracts, *, show_metadata: bool
) -> None:
    console = stdout_console()
    one = not outgoing.method.server_streams
    async for message in outgoing.answers(requests):
        console.print(contracts.to_json(message, indent=2 if one else None), markup=False)
        sys.stdout.flush()
    if show_metadata:
        initial, trailing = await outgoing.metadata()
        _print_metadata("initial", initial)
        _print_metadata("trailing", trailing)


def _print_metadata(kind: str, metadata: Any) -> None:  # noqa: ANN401  (grpc.aio gives several types here)
    for key, value in metadata or ():
        stderr_console().print(
            f"{kind} {key}: {value!r}" if isinstance(value, bytes) else f"{kind} {key}: {value}", markup=False
        )


def _texts(data: str, method: Method) -> list[str]:
    """The request's JSON, or a client stream's, a line each."""
    if data == "@-":
        text = sys.stdin.read()
    elif data.startswith("@"):
        try:
            text = Path(data[1:]).read_text(encoding="utf-8")
        except OSError as error:
            message = f"{data[1:]}: {error.strerror}"
            raise StackError(message) from error
        except UnicodeDecodeError as error:
            message = f"{data[1:]}: no text in UTF-8"
            raise StackError(message) from error
    else:
        text = data
    return [line for line in text.splitlines() if line.strip()] if method.client_streams else [text]


def read_headers(values: Sequence[str]) -> list[tuple[str, str | bytes]]:
    """`Name: value` → ("name", "value"); the value of a name that ends in `-bin` is Base64."""
    return [_header(value) for value in values]


def _header(written: str) -> tuple[str, str | bytes]:
    name, separator, text = (part.strip() for part in written.partition(":"))
    if not separator or not name:
        raise typer.BadParameter(f"expected 'NAME: VALUE', found {written!r}", param_hint="--header")
    name = name.lower()
    if not _NAME.fullmatch(name) or not (text.isascii() and text.isprintable()):
        raise typer.BadParameter(
            f"gRPC takes no metadata such as {written!r}: a name has letters, digits, '-', '_' and '.'; a value ASCII",
            param_hint="--header",
        )
    if not name.endswith("-bin"):
        return name, text
    try:
        return name, base64.b64decode(text, validate=True)
    except ValueError as error:
        raise typer.BadParameter(f"{name} takes Base64: {error}", param_hint="--header") from error


def calling_sidecar(state: StackState, caller: str | None) -> InstanceState:
    """The sidecar to call through."""
    if caller is None:
        return min(state.instances, key=lambda instance: not instance.sidecar_only)
    for instance in state.instances:
        if instance.app_id == caller:
            return instance
    raise _not_in_the_stack(f"--from {caller}", {instance.app_id for instance in state.instances})


def known_app(state: StackState, app_id: str, option: str) -> str:
    """An app that an option names: of the stack, or of its file, as one that has joined by `apibase run` is."""
    known = {instance.app_id for instance in state.instances}
    if app_id not in known:
        known |= {app.app_id for app in read_topology(Path(state.topology)).apps}
    if app_id not in known:
        raise _not_in_the_stack(f"{option} {app_id}", known)
    return app_id


def _not_in_the_stack(what: str, known: set[str]) -> StackError:
    return StackError(f"{what}: not in the stack; there are {', '.join(sorted(known))}")


async def _who_serves(channel: grpc.aio.Channel, state: StackState, method: Method, target: str) -> str:
    """Which apps serve the method's service, where the one that was called does not say so; "" for none."""
    known = [app.app_id for app in read_topology(Path(state.topology)).apps if app.is_grpc]
    found = await serving_apps(channel, method.service, known)
    if not found or target in found:
        return ""
    return f"{target} does not serve {method.service}; {', '.join(found)} {'does' if len(found) == 1 else 'do'}"


async def _find_app(channel: grpc.aio.Channel, state: StackState, method: Method) -> str:
    """The first app that says it serves the method's service."""
    topology = read_topology(Path(state.topology))
    known = [app.app_id for app in topology.apps if app.is_grpc]
    started = [app_id for app_id in known if any(instance.app_id == app_id for instance in state.instances)]
    joined = [app_id for app_id in known if app_id not in started]  # Perhaps, by `apibase run`.
    for apps in (started, joined):
        if found := await serving_apps(channel, method.service, apps):
            return found[0]
    raise StackError(
        f"no app that is up says that it serves {method.service}; name one with --app-id: {', '.join(known)}"
    )
