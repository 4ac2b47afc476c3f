"""What `apibase dlq` does: the commands behind the options that `dlq` declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apibase.cli.archives import Found, OpenArchive, UnreadableLetter, Where, open_archives, resolve, search
from apibase.cli.choices import find_project
from apibase.cli.console import stderr_console, stdout_console
from apibase.cli.dead_letter_view import as_json, letter_lines, letter_table, plan_table
from apibase.cli.runner import Interruption, run_command
from apibase.dead_letters.few_at_a_time import for_each
from apibase.dead_letters.filter import DeadLetterFilter, is_replayed
from apibase.dead_letters.replay import LacksFields, NotReplayable, check_replayable
from apibase.local.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from apibase.cli.dlq import Selection
    from dapr_contract.v1.dead_letters_pb2 import DeadLetter


_MISSING = "is listed, but not in the archive any more, or not yet"


@dataclass(frozen=True)
class ReplayOptions:
    """How letters are replayed; see the options of the same names."""

    to: str = ""
    again: bool = False
    without_redacted_fields: bool = False
    delete: bool = False
    yes: bool = False


@dataclass(frozen=True)
class Planned:
    """A letter that is to be published to a topic."""

    found: Found
    letter: DeadLetter
    topic: str


def list_letters(selection: Selection, *, limit: int, json: bool) -> None:
    """Print the letters that are meant, the newest first."""
    wanted = _filter(selection)

    async def work(archives: Sequence[OpenArchive]) -> int:
        found = await search(archives, wanted, limit + 1 if limit else 0)
        shown = found[:limit] if limit else found
        console = stdout_console()
        if json:
            for each in shown:
                console.print(as_json(each), markup=False)
        elif shown:
            console.print(letter_table(shown, console.width, with_app=len(archives) > 1))
        else:
            where = ", ".join(f"{each.store}{f' of {each.app_id}' if each.app_id else ''}" for each in archives)
            what = "no dead letters" if wanted == DeadLetterFilter() else "no dead letters that the filters leave"
            stderr_console().print(f"{what} in the archive ({where})", markup=False)
        if len(found) > len(shown):
            stderr_console().print(f"the newest {limit}; there are more: --limit 0 shows all")
        return 0

    _with_archives(selection, work)


def show_letter(selection: Selection) -> None:
    """Print one letter whole."""

    async def work(archives: Sequence[OpenArchive]) -> int:
        (found,) = await resolve(archives, selection.ids)
        letter = await _letter(found)
        for line in letter_lines(letter, found.archive.app_id):
            stdout_console().print(line, markup=False)
        return 0

    _with_archives(selection, work)


def replay_letters(selection: Selection, options: ReplayOptions) -> None:
    """Publish letters again, or tell which would be. The exit code is 1 where one that is meant is not sent."""

    async def work(archives: Sequence[OpenArchive]) -> int:
        waiting = selection.everything and not options.again
        plan: list[Planned] = []
        refused: list[tuple[Found, NotReplayable]] = []
        chosen = await _chosen(archives, selection, waiting=waiting)
        for found, letter in zip(chosen, await for_each(_replayable, chosen), strict=True):
            if isinstance(letter, NotReplayable):
                refused.append((found, letter))
                continue
            if waiting and is_replayed(letter.summary):
                continue  # The index does not say so yet.
            try:
                topic = check_replayable(
                    letter, topic=options.to, without_redacted_fields=options.without_redacted_fields
                )
            except NotReplayable as reason:
                refused.append((found, reason))
            else:
                plan.append(Planned(found, letter, topic))
        _tell(plan, refused, options)
        if not options.yes:
            return 0
        await _send(plan, options)
        return 1 if refused else 0

    _with_archives(selection, work)


def delete_letters(selection: Selection, *, yes: bool) -> None:
    """Delete letters, or tell which would be."""

    async def work(archives: Sequence[OpenArchive]) -> int:
        chosen = await _chosen(archives, selection)
        console = stdout_console()
        if yes:
            for archive, found in _by_archive(chosen):
                await archive.delete(found)
            console.print(f"deleted {_letters(len(chosen))}")
            return 0
        if chosen:
            console.print(letter_table(chosen, console.width, with_app=len(archives) > 1))
        more = ": add --yes" if chosen else ""
        stderr_console().print(f"would delete {_letters(len(chosen))}; nothing is deleted yet{more}")
        return 0

    _with_archives(selection, work)


async def _send(plan: Sequence[Planned], options: ReplayOptions) -> None:
    """Publish what is planned; a failure tells how far it came."""
    sent: list[Found] = []
    try:
        for each in plan:
            await each.found.archive.replay(
                each.letter, options.to, without_redacted_fields=options.without_redacted_fields
            )
            sent.append(each.found)
            stdout_console().print(f"replayed {each.letter.id}", markup=False)
        for archive, replayed in _by_archive(sent if options.delete else []):
            await archive.delete(replayed)
    except StackError as error:
        if len(sent) == len(plan):
            error.add_note(f"all {_letters(len(sent))} are sent, but not all of them are deleted")
        else:
            error.add_note(
                f"{len(sent)} of {_letters(len(plan))} are sent, those listed above; "
                f"{plan[len(sent)].letter.id} failed, and may have been sent; the rest is not"
            )
        raise
    stderr_console().print(f"{_letters(len(sent))} sent{' and deleted' if options.delete else ''}")


def _tell(plan: Sequence[Planned], refused: Sequence[tuple[Found, NotReplayable]], options: ReplayOptions) -> None:
    """Say what would be sent, unless it is sent now, and what is refused and why."""
    errors = stderr_console()
    if plan and not options.yes:
        console = stdout_console()
        rows = [(each.letter, each.topic) for each in plan]
        console.print(plan_table(rows, console.width, for_everybody=bool(options.to)))
    for found, reason in refused:
        errors.print(f"refused {found.entry.id}: {reason}", markup=False)
    if any(isinstance(reason, LacksFields) for _, reason in refused):
        errors.print("to replay letters without such fields: --without-redacted-fields")
    if not options.yes:
        topics = [each.topic for each in plan]
        to = ", ".join(f"{topics.count(topic)} to {topic}" for topic in sorted(set(topics)))
        also = f"; {len(refused)} refused" if refused else ""
        more = ": add --yes" if plan else ""
        told = f"would replay {_letters(len(plan))}{f': {to}' if to else ''}{also}; nothing is sent yet{more}"
        errors.print(told, markup=False)


def _with_archives(selection: Selection, work: Callable[[Sequence[OpenArchive]], Awaitable[int]]) -> None:
    project = find_project(selection.file)

    async def command(_: Interruption) -> int:
        async with open_archives(project, Where(selection.app, selection.sidecar, selection.store)) as archives:
            return await work(archives)

    run_command(command)


def _filter(selection: Selection, *, waiting: bool = False) -> DeadLetterFilter:
    return DeadLetterFilter(
        selection.code, selection.handler, selection.topic, selection.type, selection.since, waiting
    )


async def _chosen(archives: Sequence[OpenArchive], selection: Selection, *, waiting: bool = False) -> list[Found]:
    """The letters that are meant: those that are named in the order given, those of filters the oldest first."""
    if selection.ids:
        return await resolve(archives, selection.ids)
    return (await search(archives, _filter(selection, waiting=waiting)))[::-1]


async def _letter(found: Found) -> DeadLetter:
    letter = await found.archive.get(found.entry.id)
    if letter is None:
        raise StackError(f"letter {found.entry.id} {_MISSING}; try again")
    return letter


async def _replayable(found: Found) -> DeadLetter | NotReplayable:
    """Read a letter; one that is not there, or is none, does not stop the others."""
    try:
        return await found.archive.get(found.entry.id) or NotReplayable(f"it {_MISSING}")
    except UnreadableLetter as error:
        return NotReplayable(str(error))


def _by_archive(found: Sequence[Found]) -> list[tuple[OpenArchive, list[Found]]]:
    archives = {id(each.archive): each.archive for each in found}
    return [(archive, [each for each in found if each.archive is archive]) for archive in archives.values()]


def _letters(count: int) -> str:
    return f"{count} letter{'' if count == 1 else 's'}"
