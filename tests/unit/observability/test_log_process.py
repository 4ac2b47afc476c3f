"""The log of a whole process: every line that it writes, whoever caused it, is one of the schema's."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc

from apibase import Settings
from tests.unit.conftest import Desk
from tests.unit.log_schema import valid_line
from tests.unit.streaming.streaming_dapr import StreamingDapr, event_frame

TOKEN = "token-of-the-app"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = (
    ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),
    ("x-correlation-id", "c7"),
    ("dapr-api-token", TOKEN),
    ("dapr-caller-app-id", "shop"),
)
BY_DAPRD = HEADERS[:3]

DELIVERIES = [
    ("OnAsked", "SUCCESS"),
    ("OnAsked", "SUCCESS"),
    ("OnMail", "OK"),
    ("nightly", "OK"),
    ("on_streamed", "SUCCESS"),
]

PROGRAM = """
import asyncio, gc, logging, sys, threading, warnings

from desk.v1 import desk_pb2, desk_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from loguru import logger

from apibase import App, JobEvent, run


def broken(*_):
    raise ValueError("it broke")


async def broken_task():
    broken()


class Unraisable:
    def __del__(self):
        broken()


async def on_streamed(message, event):
    logger.info("streamed {}", event.id)


class Desk(desk_pb2_grpc.DeskServicer):
    async def Ask(self, request, context):
        loop = asyncio.get_running_loop()
        match request.text:
            case "warn":
                warnings.warn("it is old", UserWarning, stacklevel=1)
            case "log":
                logging.getLogger("some.library").warning("a library: %s", "x", extra={"shelf": 7})
                logging.getLogger("grpc").warning("gRPC's own")
            case "thread":
                thread = threading.Thread(target=broken, name="worker")
                thread.start()
                await asyncio.to_thread(thread.join)
            case "task":
                loop.create_task(broken_task(), name="forgotten")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                gc.collect()
            case "callback":
                loop.call_soon(broken)
                await asyncio.sleep(0)
            case "unraisable":
                Unraisable()
            case "fail":
                try:
                    broken()
                except ValueError as error:
                    error.add_note("while it was asked")
                    raise RuntimeError("and again") from error
            case "secret":
                logger.bind(metadata=dict(context.invocation_metadata())).info("the token")
            case "subscribe":
                await app.subscribe_stream("events", "streamed", on_streamed, message=desk_pb2.Asked)
        return desk_pb2.Answer(text=request.text)


class Events(desk_pb2_grpc.DeskEventsServicer):
    async def OnAsked(self, request, context):
        if request.text == "fail":
            broken()
        return Empty()

    OnAnswered = OnMail = OnTick = OnAsked


def build():
    global app
    app = App()
    app.add_servicer(Desk())
    app.add_servicer(Events())

    @app.job_event("nightly")
    async def nightly(event: JobEvent) -> None:
        pass

    return app


run(build)
"""


class Process:
    """A service in its own process, its sidecar in this one."""

    def __init__(self, desk: Desk, process: asyncio.subprocess.Process) -> None:
        self._desk = desk
        self._process = process
        self.raw: list[str] = []

    async def until(self, text: str) -> str:
        """Read on until a line has this text, and return that line."""
        assert self._process.stderr is not None
        async with asyncio.timeout(20):
            while line := (await self._process.stderr.readline()).decode():
                self.raw.append(line)
                if text in line:
                    return line
        raise AssertionError(f"{text!r} is not in:\n{''.join(self.raw)}")

    async def ask(self, text: str) -> dict[str, Any]:
        """Call the service and return the line of the call."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            call = self._desk.grpc.DeskStub(channel).Ask(self._desk.pb2.Question(text=text), metadata=HEADERS)
            if text == "fail":
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
            else:
                await call
        return valid_line(await self.until('"logger":"apibase.call"'))

    @property
    def address(self) -> str:
        (found,) = re.findall(r"listens on (127\.0\.0\.1:\d+)", "".join(self.raw))
        return found

    def one(self, **fields: object) -> dict[str, Any]:
        lines = [valid_line(line) for line in self.raw]
        (found,) = [line for line in lines if all(line.get(key) == value for key, value in fields.items())]
        return found


@asynccontextmanager
async def running(desk: Desk, settings: Settings, folder: Path) -> AsyncIterator[Process]:
    (folder / "program.py").write_text(PROGRAM)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(folder / "program.py"),
        env=environment(desk, settings),
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    made = Process(desk, process)
    try:
        await made.until("desk is ready")
        yield made
        process.send_signal(signal.SIGTERM)
        await made.until("desk stopped")
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def environment(desk: Desk, settings: Settings) -> dict[str, str]:
    generated = Path(str(desk.pb2.__file__)).parents[2]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(generated), os.environ.get("PYTHONPATH", "")]),
        "APP_ID": "desk",
        "APP_PORT": "0",
        "APP_API_TOKEN": TOKEN,
        "APIBASE_ACCESS_LOG": "1",
        "APIBASE_LOG_LEVELS": "apibase.event=DEBUG",
        "DAPR_GRPC_ENDPOINT": settings.sidecar_address,
    }


@pytest.mark.req("R10.4", "R10.5")
async def test_every_line_of_a_process_is_one_of_the_schema(desk: Desk, settings: Settings, tmp_path: Path) -> None:
    async with StreamingDapr(settings.sidecar_address) as dapr, running(desk, settings, tmp_path) as process:
        for text in ("warn", "log", "thread", "task", "callback", "unraisable", "fail", "secret"):
            line = await process.ask(text)
            assert (line["trace_id"], line["correlation_id"], line["caller"]) == (TRACE, "c7", "shop")
        await deliver(process.address)
        for _ in range(4):
            await process.until('"logger":"apibase.event"')
        opening = asyncio.ensure_future(process.ask("subscribe"))
        stream = await dapr.next_stream()
        await opening
        await stream.send(event_frame("e7"))
        await process.until('"event_id":"e7"')

    assert not [line for line in process.raw if TOKEN in line]
    check(process)


async def deliver(address: str) -> None:
    """Bring events, a binding's data and a job, as daprd does."""
    async with grpc.aio.insecure_channel(address) as channel:
        daprd = appcallback_pb2_grpc.AppCallbackStub(channel)
        for number, data in enumerate((b'{"text": "why"}', b"no json")):
            event = appcallback_pb2.TopicEventRequest(
                id=f"e{number}", type="desk.v1.Asked", pubsub_name="events", topic="desk", data=data
            )
            await daprd.OnTopicEvent(event, metadata=BY_DAPRD)
        await daprd.OnBindingEvent(
            appcallback_pb2.BindingEventRequest(name="mail", data=b'{"text": "why"}'), metadata=BY_DAPRD
        )
        alpha = appcallback_pb2_grpc.AppCallbackAlphaStub(channel)
        await alpha.OnJobEventAlpha1(appcallback_pb2.JobEventRequest(name="nightly"), metadata=BY_DAPRD)


def check(process: Process) -> None:
    """What a line of each sort has to say, and to which call it belongs."""
    in_call = {"trace_id": TRACE, "correlation_id": "c7"}
    assert process.one(logger="py.warnings", **in_call)["message"] == "it is old"
    assert process.one(logger="some.library", **in_call)["shelf"] == 7
    assert process.one(logger="grpc", **in_call)
    thread = process.one(logger="threading", thread="worker")
    assert "in broken" in thread["error"]["stack"]
    task = process.one(logger="asyncio", message="Task exception was never retrieved", **in_call)
    assert "forgotten" in task["future"]
    assert "in broken_task" in task["error"]["stack"]
    callback = process.one(logger="asyncio", message=callback_message(process), **in_call)
    assert "in broken" in callback["error"]["stack"]
    unraisable = process.one(logger="sys")
    assert "ValueError" in unraisable["message"]
    assert "trace_id" not in unraisable, "the collector may run in any call"
    deliveries = [line for line in map(valid_line, process.raw) if line["logger"] == "apibase.event"]
    assert [
        (line["method"].rpartition(".")[2], line.get("verdict") or line["code"]) for line in deliveries
    ] == DELIVERIES
    assert {line["trace_id"] for line in deliveries[:4]} == {TRACE}
    failed = process.one(message="desk.v1.Desk.Ask failed with an unexpected RuntimeError", **in_call)
    assert failed["error_id"]
    for part in ("ValueError: it broke", "while it was asked", "direct cause", "RuntimeError: and again"):
        assert part in failed["error"]["stack"]
    assert process.one(message="the token")["metadata"]["dapr-api-token"] == "***"


def callback_message(process: Process) -> str:
    """Return what the loop says of a callback that raised: asyncio and uvloop have words of their own."""
    messages = [line["message"] for line in map(valid_line, process.raw) if line["logger"] == "asyncio"]
    (found,) = [message for message in messages if "callback" in message.lower()]
    return found


CAUSES = {
    "raise ValueError('it broke')": ("CRITICAL", "the process ends by an uncaught ValueError: it broke", 1),
    "import warnings; warnings.warn('it is old')": ("WARNING", "it is old", 0),
}


@pytest.mark.req("R10.5")
@pytest.mark.parametrize("cause", CAUSES)
def test_what_ends_a_process_is_a_line_too(cause: str) -> None:
    level, message, code = CAUSES[cause]
    program = f"from apibase import Settings\nfrom apibase.observability import configure_logging\nconfigure_logging(Settings())\n{cause}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    (text,) = done.stderr.splitlines()
    line = valid_line(text)
    assert (line["level"], line["message"], done.returncode) == (level, message, code)
    assert level == "WARNING" or "ValueError: it broke" in line["error"]["stack"]


def test_ctrl_c_is_left_to_python() -> None:
    program = (
        "from apibase import Settings\nfrom apibase.observability import configure_logging\n"
        "configure_logging(Settings())\nraise KeyboardInterrupt"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.stderr.endswith("KeyboardInterrupt\n")
    assert done.returncode == -signal.SIGINT


def test_json_is_utf8_whatever_the_locale() -> None:
    program = (
        "from apibase import Settings\nfrom apibase.observability import configure_logging\nfrom loguru import logger\n"
        "configure_logging(Settings())\nlogger.info('caf\\u00e9 \\U0001f600')"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=env, check=False)

    assert valid_line(done.stderr.decode("utf-8"))["message"] == "café 😀"


def test_whoever_reads_the_log_may_leave() -> None:
    program = (
        "import os, sys\nfrom apibase import Settings\nfrom apibase.observability import configure_logging, log_outcome\n"
        "configure_logging(Settings())\nread, write = os.pipe()\nos.dup2(write, 2)\nos.close(read)\n"
        "log_outcome('INFO', 'apibase.call', 'x OK', {})\nprint('still there')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.stdout == "still there\n"
