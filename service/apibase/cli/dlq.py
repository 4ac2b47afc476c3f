"""`apibase dlq`: the archive of dead letters, listed, shown, published again.

Here is what the commands take; what they do is in `dlq_work`, which is loaded when it is asked for: other commands shall not wait
for Dapr's SDK.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from apibase.cli.choices import TopologyFile  # noqa: TC001 - typer reads it

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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
Code = Annotated[str, typer.Option("--code", metavar="CODE", help="Only letters with this code.")]
Handler = Annotated[
    str,
    typer.Option("--handler", metavar="METHOD", help="Only letters of this method: its full name, or the end of it."),
]
Topic = Annotated[
    str, typer.Option("--topic", metavar="TOPIC", help="Only letters of this topic, or on this dead-letter topic.")
]
EventType = Annotated[
    str,
    typer.Option(
        "--type", metavar="TYPE", help="Only letters of events of this type: its full name, or the end of it."
    ),
]
Since = Annotated[str, typer.Option("--since", metavar="AGE", help="Only letters that are no older: 30m, 2h, 7d.")]
LetterIds = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids, or beginnings that fit one only.")]
Everything = Annotated[bool, typer.Option("--all", help="All letters that the filters leave.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this, only tell what would be done.")]


@dataclass(frozen=True)
class Selection:
    """Which letters are meant, and where they are."""

    app: str = ""
    sidecar: str = ""
    store: str = ""
    file: Path | None = None
    ids: Sequence[str] = ()
    everything: bool = False
    code: str = ""
    handler: str = ""
    topic: str = ""
    type: str = ""
    since: datetime | None = None

    def check(self) -> None:
        """Refuse neither ids nor --all, and both."""
        if bool(self.ids) == self.everything:
            raise typer.BadParameter("name letters by their ids, or take --all with filters: one of the two")
        if self.ids and (self.code or self.handler or self.topic or self.type or self.since):
            raise typer.BadParameter("filters go with --all, not with ids")


@dlq.command("list")
def list_letters(  # noqa: PLR0913
    *,
    app: AppId = "",
    code: Code = "",
    handler: Handler = "",
    topic: Topic = "",
    type_: EventType = "",
    since: Since = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="At most this many; 0 for all.")] = 50,
    sidecar: SidecarAddress = "",
    store: StoreName = "",
    file: TopologyFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """List dead letters, the newest first."""
    from apibase.cli import dlq_work  # noqa: PLC0415 - see above

    selection = Selection(app, sidecar, store, file, (), True, code, handler, topic, type_, read_since(since))
    dlq_work.list_letters(selection, limit=limit, json=json)


@dlq.command("show")
def show_letter(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="An id, or a beginning that fits one letter only.")],
    *,
    app: AppId = "",
    sidecar: SidecarAddress = "",
    store: StoreName = "",
    file: TopologyFile = None,
) -> None:
    """Show a dead letter whole, with its data."""
    from apibase.cli import dlq_work  # noqa: PLC0415 - see above

    dlq_work.show_letter(Selection(app, sidecar, store, file, (letter_id,)))


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
    delete: Annotated[bool, typer.Option("--delete", help="Delete each letter once all are replayed.")] = False,
    yes: Yes = False,
) -> None:
    """Publish dead letters again to the topics that they came from, the oldest first; without --yes only tell which.

    The handler that could not take an event gets it again. Handlers of other services on this chassis let it pass; consumers
    that are not on it get it a second time.
    """
    from apibase.cli import dlq_work  # noqa: PLC0415 - see above

    selection = Selection(
        app, sidecar, store, file, letter_ids or (), everything, code, handler, topic, type_, read_since(since)
    )
    selection.check()
    options = dlq_work.ReplayOptions(to, again, without_redacted_fields, delete, yes)
    dlq_work.replay_letters(selection, options)


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
    """Delete dead letters from the archive for good; without --yes only tell which."""
    from apibase.cli import dlq_work  # noqa: PLC0415 - see above

    selection = Selection(
        app, sidecar, store, file, letter_ids or (), everything, code, handler, topic, type_, read_since(since)
    )
    selection.check()
    dlq_work.delete_letters(selection, yes=yes)


def read_since(value: str) -> datetime | None:
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
