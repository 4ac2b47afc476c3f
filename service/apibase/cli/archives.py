"""Where the archives of dead letters are: behind the sidecars of the stack that is up, or behind one that is named."""

from __future__ import annotations

import contextlib
import os
import warnings
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from dapr.conf.helpers import GrpcEndpoint
from pydantic import SecretStr

from apibase.clients import Sidecar, StateManager
from apibase.dead_letters.archive import DeadLetterArchive
from apibase.dead_letters.letter_store import is_unreadable
from apibase.dead_letters.replay import DeadLetterReplay
from apibase.errors import SidecarError
from apibase.local.errors import StackError
from apibase.local.ports import LOOPBACK
from apibase.local.state_file import running_stack
from apibase.local.topology import read_topology
from apibase.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from apibase.dead_letters.filter import DeadLetterFilter
    from apibase.local.project import Project
    from dapr_contract.v1.dead_letters_pb2 import DeadLetter, DeadLetterEntry

SETTING = "APIBASE_DEAD_LETTER_STORE"
_TOKEN = "DAPR_API_TOKEN"  # noqa: S105 - a variable's name
_MAX_BYTES = 64 * 1024 * 1024
_NAMED = 5


class UnreadableLetter(StackError):
    """What is in the archive under a letter's id is no letter."""


@dataclass(frozen=True)
class Where:
    """What the command line says of the archives: apps of the stack, or a sidecar (`host:port`) and a store."""

    app: str = ""
    sidecar: str = ""
    store: str = ""


@dataclass(frozen=True)
class Found:
    """A letter's entry, and the archive that it is in."""

    archive: OpenArchive
    entry: DeadLetterEntry


class OpenArchive:
    """One app's archive, read and replayed through its sidecar. What the sidecar refuses is a `StackError`."""

    def __init__(self, app_id: str, address: str, store: str, token: str = "") -> None:
        self.app_id = app_id
        self.store = store
        # Not from the environment: that is of an app's terminal, if of anything.
        self._sidecar = Sidecar(
            Settings.model_construct(
                dapr_grpc_endpoint=address,
                dapr_api_token=SecretStr(token) if token else None,
                max_message_bytes=_MAX_BYTES,
            )
        )
        self._letters = DeadLetterArchive(StateManager(self._sidecar, store))
        self._replay = DeadLetterReplay(self._sidecar, self._letters)

    async def find(self, wanted: DeadLetterFilter | None = None, limit: int = 0) -> list[Found]:
        """Return the entries that are meant, the newest first."""
        with self._told():
            return [Found(self, entry) for entry in await self._letters.find(wanted, limit=limit)]

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return a letter; `UnreadableLetter` where it is none."""
        with self._told():
            return await self._letters.get(letter_id)

    async def replay(self, letter: DeadLetter, topic: str, *, without_redacted_fields: bool) -> None:
        """Publish a letter's event again; `NotReplayable` where it lacks something."""
        with self._told():
            await self._replay.replay(letter, topic=topic, without_redacted_fields=without_redacted_fields)

    async def delete(self, found: Sequence[Found]) -> None:
        """Delete letters that have not come again since they were found."""
        with self._told():
            await self._letters.delete(each.entry for each in found)

    async def close(self) -> None:
        """Close the connection."""
        await self._sidecar.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except SidecarError as error:
            whose = f"the sidecar of {self.app_id}" if self.app_id else "the sidecar"
            kind = UnreadableLetter if is_unreadable(error) else StackError
            raise kind(f"{whose} at {self._sidecar.address}: {error.code.name}: {error.message}") from error


@contextlib.asynccontextmanager
async def open_archives(project: Project, where: Where) -> AsyncIterator[list[OpenArchive]]:
    """Open the archives that the command line means; at least one, or `StackError`."""
    archives = [_elsewhere(where)] if where.sidecar else _of_the_stack(project, where)
    try:
        yield archives
    finally:
        for archive in archives:
            await archive.close()


def _elsewhere(where: Where) -> OpenArchive:
    if not where.store:
        raise typer.BadParameter(
            f"name the state store of the archive too ({SETTING} of its app)", param_hint="--store"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            GrpcEndpoint(where.sidecar)
    except ValueError as error:
        raise typer.BadParameter(f"expected HOST:PORT: {error}", param_hint="--sidecar") from error
    return OpenArchive(where.app, where.sidecar, where.store, os.environ.get(_TOKEN, ""))


def _of_the_stack(project: Project, where: Where) -> list[OpenArchive]:
    state = running_stack(project.state_file)
    topology = read_topology(Path(state.topology))
    apps = [topology.app(where.app)] if where.app else list(topology.apps)
    archives = []
    for app in apps:
        store = where.store if where.store and where.app else app.env.get(SETTING, "")
        instance = next((each for each in state.instances if each.app_id == app.app_id), None)
        if instance is None and where.app:
            raise StackError(f"{app.app_id} is not in the stack that is up")
        if instance is not None and store and where.store in {"", store}:
            token = os.environ.get(_TOKEN, "") or app.env.get(_TOKEN, "")
            archives.append(OpenArchive(app.app_id, f"{LOOPBACK}:{instance.grpc_port}", store, token))
    if not archives:
        raise StackError(_nothing_archived(where, [app.env.get(SETTING, "") for app in apps], topology.file.name))
    return archives


def _nothing_archived(where: Where, stores: Sequence[str], file: str) -> str:
    """Say why there is no archive: none in the store that is named, or none at all."""
    who = where.app or "no app that is up"
    verb = "does not archive" if where.app else "archives"
    others = sorted({store for store in stores if store})
    if where.store and others:
        return f"{who} {verb} dead letters in {where.store}, as --store says; there is {', '.join(others)}"
    return (
        f"{who} {verb} dead letters; to turn that on, set {SETTING} to the name of a state store component in the app's env "
        f"in {file}"
    )


async def resolve(archives: Sequence[OpenArchive], prefixes: Sequence[str]) -> list[Found]:
    """Return the letters whose ids begin so, each once; `StackError` for an id that fits none, or several."""
    everything = [found for archive in archives for found in await archive.find()]
    chosen: dict[tuple[str, str], Found] = {}
    for prefix in prefixes:
        fitting = [found for found in everything if found.entry.id.startswith(prefix)] if prefix else []
        if not fitting:
            raise StackError(f"there is no letter {prefix!r} in the archive; it may have expired")
        if len(fitting) > 1:
            named = ", ".join(
                " of ".join(filter(None, (each.entry.id, each.archive.app_id))) for each in fitting[:_NAMED]
            )
            more = ", …" if len(fitting) > _NAMED else ""
            hint = "; choose with --app" if len({each.entry.id for each in fitting}) == 1 else ""
            raise StackError(f"{prefix!r} fits {len(fitting)} letters ({named}{more}){hint}")
        chosen[fitting[0].archive.app_id, fitting[0].entry.id] = fitting[0]
    return list(chosen.values())


async def search(archives: Sequence[OpenArchive], wanted: DeadLetterFilter, limit: int = 0) -> list[Found]:
    """Return the letters that are meant, of all archives, the newest first."""
    found = [each for archive in archives for each in await archive.find(wanted, limit)]
    if len(archives) > 1:
        found.sort(key=lambda each: each.entry.summary.archived_at.ToDatetime(UTC), reverse=True)
    return found[:limit] if limit else found
