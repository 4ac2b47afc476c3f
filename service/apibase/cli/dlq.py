"""`apibase dlq`: the archive of dead letters, listed, shown, published again."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from apibase.cli.archives import Found, OpenArchive, Where, open_archives, resolve, search
from apibase.cli.choices import TopologyFile, find_project
from apibase.cli.console import stderr_console, stdout_console
from apibase.cli.dead_letter_view import as_json, letter_lines, letter_table, plan_table
from apibase.cli.runner import Interruption, run_command
from apibase.dead_letter_archive import DeadLetterFilter, is_replayed
from apibase.dead_letter_replay import NotReplayable, check_replayable
from apibase.local.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from dapr_contract.v1.dead_letters_pb2 import DeadLetter

dlq = typer.Typer(help="Dead letters: what lies in the archive, why, and back to its topic.", no_args_is_help=True)

_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

AppId = Annotated[
    str, typer.Option("--app", metavar="APP", help="This app's archive; default: those of all apps that are up.")
]
SidecarAddress = Annotated[
    str,
    typer.Option(
        "--sidecar",
        metavar="HOST:PORT",
        help="The gRPC API of the app's sidecar, where no stack is up here; DAPR_API_TOKEN is its token. Needs --store.",
    ),
]
StoreName = Annotated[str, typer.Option("--store", metavar="NAME", help="The state store component of the archive.")]
Code = Annotated[str, typer.Option("--code", help="Only letters with this code.")]
Handler = Annotated[
    str, typer.Option("--handler", help="Only letters of this method: its full name, or the end of it.")
]
Topic = Annotated[str, typer.Option("--topic", help="Only letters of this topic, or on this dead-letter topic.")]
EventType = Annotated[str, typer.Option("--type", help="Only letters of events of this type.")]
Since = Annotated[str, typer.Option("--since", metavar="AGE", help="Only letters that are no older: 30m, 2h, 7d.")]
LetterIds = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids, or beginnings that fit one only.")]
Everything = Annotated[bool, typer.Option("--all", help="All letters that the filters leave.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this, only tell what would be done.")]


@dlq.command("list")
def list_letters(  # noqa: PLR0913
    *,
    app: AppId = "",
    code: Code = "",
    handler: Handler = "",
    topic: Topic = "",
    type_: EventType = "",
    since: Since = "",
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most this many; 0 for all.")] = 50,
    sidecar: SidecarAddress = "",
    store: StoreName = "",
    file: TopologyFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """List dead letters, the newest first."""
    wanted = DeadLetterFilter(code, handler, topic, type_, _read_since(since))

    async def list_them(archives: Sequence[OpenArchive]) -> int:
        found = await search(archives, wanted, limit + 1 if limit else 0)
        shown = found[:limit] if limit else found
        if json:
            for each in shown:
                stdout_console().print(as_json(each), markup=False)
        elif not shown:
            where = ", ".join(f"{each.store}{f' of {each.app_id}' if each.app_id else ''}" for each in archives)
            what = "no dead letters" if wanted == DeadLetterFilter() else "no dead letters that the filters leave"
            stderr_console().print(f"{what} in the archive ({where})", markup=False)
        else:
            console = stdout_console()
            console.print(letter_table(shown, console.width, with_app=len(archives) > 1))
        if len(found) > len(shown):
            stderr_console().print(f"the newest {limit}; there are more: --limit 0 shows all")
        return 0

    _with_archives(Where(app, sidecar, store), file, list_them)


@dlq.command("show")
def show_letter(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="An id, or a beginning that fits one letter only.")],
    app: AppId = "",
    sidecar: SidecarAddress = "",
    store: StoreName = "",
    file: TopologyFile = None,
) -> None:
    """Show a dead letter whole, with its data."""

    async def show_it(archives: Sequence[OpenArchive]) -> int:
        (found,) = await resolve(archives, [letter_id])
        letter = await _letter(found)
        for line in letter_lines(letter, found.archive.app_id):
            stdout_console().print(line, markup=False)
        return 0

    _with_archives(Where(app, sidecar, store), file, show_it)


@dlq.command("replay")
def replay_letters(  # noqa: PLR0913
    letter_ids: LetterIds = None,
    *,
    app: AppId = "",
    code: Code = "",
    handler: Handler = "",
    topic: Topic = "",
    type_: EventType = "",
    since: Since = "",
    to: Annotated[str, typer.Option("--to", metavar="TOPIC", help="Publish to this topic instead.")] = "",
    sidecar: SidecarAddress = "",
    store: StoreName = "",
    file: TopologyFile = None,
    everything: Everything = False,
    again: Annotated[
        bool, typer.Option("--again", help="With --all, take those too that were replayed and have not died again.")
    ] = False,
    without_redacted_fields: Annotated[
        bool, typer.Option("--without-redacted-fields", help="Replay letters that lack fields which must not be shown.")
    ] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete each letter once it is replayed.")] = False,
    yes: Yes = False,
) -> None:
    """Publish dead letters again to the topics that they came from, the oldest first; first only tell which.

    The handler that could not take an event gets it again. Handlers of other services on this chassis let it pass; consumers
    that are not on it get it a second time.
    """
    wanted = DeadLetterFilter(code, handler, topic, type_, _read_since(since), waiting=not again)
    _check_choice(letter_ids, wanted, everything=everything)

    async def replay_them(archives: Sequence[OpenArchive]) -> int:
        started = datetime.now(UTC)
        chosen = await _chosen(archives, letter_ids, wanted)
        plan: list[tuple[Found, DeadLetter, str]] = []
        refused: list[tuple[Found, str]] = []
        for found in chosen:
            letter = await _letter(found)
            if everything and not again and is_replayed(letter.summary):
                continue  # The index did not say so yet.
            try:
                target = check_replayable(letter, topic=to, without_redacted_fields=without_redacted_fields)
            except NotReplayable as reason:
                refused.append((found, str(reason)))
            else:
                plan.append((found, letter, target))
        _print_plan(plan, refused, yes=yes)
        if not yes:
            return 0
        await _send(plan, to, without_redacted_fields=without_redacted_fields, delete=delete, started=started)
        return 1 if refused else 0

    _with_archives(Where(app, sidecar, store), file, replay_them)


@dlq.command("delete")
def delete_letters(  # noqa: PLR0913
    letter_ids: LetterIds = None,
    *,
    app: AppId = "",
    code: Code = "",
    handler: Handler = "",
    topic: Topic = "",
    type_: EventType = "",
    since: Since = "",
    sidecar: SidecarAddress = "",
    store: StoreName = "",
    file: TopologyFile = None,
    everything: Everything = False,
    yes: Yes = False,
) -> None:
    """Delete dead letters from the archive for good; first only tell which."""
    wanted = DeadLetterFilter(code, handler, topic, type_, _read_since(since))
    _check_choice(letter_ids, wanted, everything=everything)

    async def delete_them(archives: Sequence[OpenArchive]) -> int:
        before = datetime.now(UTC)
        chosen = await _chosen(archives, letter_ids, wanted)
        console = stdout_console()
        if not yes:
            if chosen:
                console.print(letter_table(chosen, console.width, with_app=len(archives) > 1))
            stderr_console().print(f"would delete {_letters(len(chosen))}; nothing is deleted yet: add --yes")
            return 0
        for archive, found in _by_archive(chosen):
            await archive.delete([each.entry.id for each in found], before)
        console.print(f"deleted {_letters(len(chosen))}")
        return 0

    _with_archives(Where(app, sidecar, store), file, delete_them)


async def _send(
    plan: Sequence[tuple[Found, DeadLetter, str]],
    to: str,
    *,
    without_redacted_fields: bool,
    delete: bool,
    started: datetime,
) -> None:
    sent: list[Found] = []
    try:
        for found, letter, _ in plan:
            await found.archive.replay(letter, to, without_redacted_fields=without_redacted_fields)
            sent.append(found)
            stdout_console().print(f"replayed {found.entry.id}", markup=False)
        for archive, replayed in _by_archive(sent if delete else []):
            await archive.delete([each.entry.id for each in replayed], started)
    except StackError as error:
        if len(sent) == len(plan):
            error.add_note(f"all {_letters(len(sent))} were sent, but not all of them are deleted")
        else:
            error.add_note(
                f"{_letters(len(sent))} of {len(plan)} were sent, those listed above; "
                f"{plan[len(sent)][0].entry.id} failed and may have been sent; the rest was not"
            )
        raise
    stderr_console().print(f"{_letters(len(sent))} sent{' and deleted' if delete else ''}")


def _print_plan(
    plan: Sequence[tuple[Found, DeadLetter, str]], refused: Sequence[tuple[Found, str]], *, yes: bool
) -> None:
    console = stdout_console()
    if plan and not yes:
        console.print(plan_table(plan))
    topics: dict[str, int] = {}
    for _, _, target in plan:
        topics[target] = topics.get(target, 0) + 1
    to = ", ".join(f"{count} to {target}" for target, count in sorted(topics.items()))
    errors = stderr_console()
    for found, reason in refused:
        errors.print(f"refused {found.entry.id}: {reason}", markup=False)
    if any("must not be shown" in reason and "archive" not in reason for _, reason in refused):
        errors.print("to replay letters without such fields: --without-redacted-fields")
    if not yes:
        told = f"would replay {_letters(len(plan))}{f': {to}' if to else ''}"
        also = f"; {len(refused)} refused" if refused else ""
        errors.print(f"{told}{also}; nothing is sent yet{': add --yes' if plan else ''}", markup=False)


def _with_archives(where: Where, file: Path | None, work: Callable[[Sequence[OpenArchive]], Awaitable[int]]) -> None:
    project = find_project(file)

    async def command(_: Interruption) -> int:
        async with open_archives(project, where) as archives:
            return await work(archives)

    run_command(command)


def _check_choice(letter_ids: Sequence[str] | None, wanted: DeadLetterFilter, *, everything: bool) -> None:
    if bool(letter_ids) == everything:
        raise typer.BadParameter("name letters by their ids, or take --all with filters, one of the two")
    if letter_ids and DeadLetterFilter(waiting=wanted.waiting) != wanted:
        raise typer.BadParameter("filters go with --all, not with ids")


async def _chosen(
    archives: Sequence[OpenArchive], letter_ids: Sequence[str] | None, wanted: DeadLetterFilter
) -> list[Found]:
    """The letters that are meant: those that are named in the order given, those of filters the oldest first."""
    return await resolve(archives, letter_ids) if letter_ids else (await search(archives, wanted))[::-1]


async def _letter(found: Found) -> DeadLetter:
    letter = await found.archive.get(found.entry.id)
    if letter is None:
        raise StackError(f"letter {found.entry.id} is listed but not in the archive any more, or not yet; try again")
    return letter


def _by_archive(found: Sequence[Found]) -> list[tuple[OpenArchive, list[Found]]]:
    archives = {id(each.archive): each.archive for each in found}
    return [(archive, [each for each in found if each.archive is archive]) for archive in archives.values()]


def _letters(count: int) -> str:
    return f"{count} letter{'' if count == 1 else 's'}"


def _read_since(value: str) -> datetime | None:
    """`2h` → two hours ago; None for nothing."""
    if not value:
        return None
    match = _AGE.fullmatch(value)
    if not match:
        raise typer.BadParameter(f"expected an age such as 30m, 2h or 7d, found {value!r}", param_hint="--since")
    try:
        return datetime.now(UTC) - timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    except OverflowError as error:
        raise typer.BadParameter(f"{value!r} is before all calendars", param_hint="--since") from error
