"""`apibase dlq` on an archive behind a sidecar in this process: what it prints, refuses and leaves alone."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from apibase import Settings, Sidecar, StateManager
from apibase.cli import dlq_work
from apibase.cli.archives import OpenArchive, Where, open_archives
from apibase.cli.dead_letter_view import data_text, letter_lines, letter_table, plan_table
from apibase.cli.dlq import Selection, read_since
from apibase.cli.dlq_work import ReplayOptions
from apibase.dead_letters.archive import DeadLetterArchive
from apibase.local.errors import StackError
from apibase.local.project import Project
from dapr_contract.v1.dead_letters_pb2 import DeadLetter, DeadLetterEntry
from tests.unit.fake_dapr import FakeDapr

ALL = Selection(everything=True)
YES = ReplayOptions(yes=True)


@dataclass
class Ran:
    """What a command printed, and its exit code, or what it ended with."""

    out: str
    err: str
    code: int = 0
    error: StackError | None = None


@pytest.fixture
def run(
    dapr: FakeDapr, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Awaitable[Ran]]:
    """Return a function that runs a command on the archives of two apps, of which the second is empty, in this loop."""

    async def ran(command: Callable[..., None], *arguments: Any, apps: int = 1, **options: Any) -> Ran:
        works: list[Callable[[Any], Awaitable[int]]] = []
        monkeypatch.setattr(dlq_work, "_with_archives", lambda _, work: works.append(work))
        command(*arguments, **options)
        names = [("desk", "statestore"), ("till", "tillstore")][:apps]
        archives = [OpenArchive(app, settings.sidecar_address, store) for app, store in names]
        code, error = 0, None
        try:
            code = await works[0](archives)
        except StackError as caught:
            error = caught
        finally:
            for archive in archives:
                await archive.close()
        printed = capsys.readouterr()
        return Ran(printed.out, printed.err, code, error)

    return ran


def letter(number: int, **fields: Any) -> DeadLetter:
    made = DeadLetter(id=f"{number:04}abcd", source="shop", data=b'{"text": "why"}', content_type="application/json")
    made.handlers.append("post.v1.PostEvents.OnLetter")
    made.summary.event_id, made.summary.event_type = f"event-{number}", "post.v1.Letter"
    made.summary.pubsub_name, made.summary.topic, made.summary.code = "events", "letters", "STALE"
    made.summary.handler, made.summary.reason = "post.v1.PostEvents.OnLetter", "the letter is a year old"
    made.MergeFrom(DeadLetter(**fields))
    return made


@pytest.fixture
async def kept(dapr: FakeDapr, settings: Settings) -> AsyncIterator[DeadLetterArchive]:
    """Return an archive of three letters, of which the second lacks a field."""
    sidecar = Sidecar(settings)
    archive = DeadLetterArchive(StateManager(sidecar, "statestore"))
    for each in (letter(1), letter(2, redacted_fields=["card"]), letter(3)):
        await archive.add(each)
    yield archive
    await sidecar.close()


async def test_a_list_is_a_table_newest_first(run: Any, kept: DeadLetterArchive) -> None:
    ran = await run(dlq_work.list_letters, ALL, limit=2, json=False)
    rows = [line.split() for line in ran.out.splitlines() if "abcd" in line]
    assert [row[0] for row in rows] == ["0003abcd", "0002abcd"]
    assert rows[0][2:] == [
        "STALE", "OnLetter", "Letter", "letters", "-", "the", "letter", "is", "a", "year", "old",
    ]  # fmt: skip
    assert "there are more: --limit 0" in ran.err


async def test_a_list_in_json_is_an_object_a_line(run: Any, kept: DeadLetterArchive) -> None:
    ran = await run(dlq_work.list_letters, ALL, limit=0, json=True)
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["event_id"] for line in lines] == ["event-3", "event-2", "event-1"]
    assert (lines[0]["app"], lines[0]["code"]) == ("desk", "STALE")
    assert ran.err == ""


async def test_an_empty_archive_says_so(run: Any) -> None:
    ran = await run(dlq_work.list_letters, ALL, limit=0, json=False, apps=2)
    assert (ran.out, ran.err) == ("", "no dead letters in the archive (statestore of desk, tillstore of till)\n")
    ran = await run(dlq_work.list_letters, Selection(code="X"), limit=0, json=False)
    assert "that the filters leave" in ran.err
    assert (await run(dlq_work.list_letters, ALL, limit=0, json=True)).out == ""


async def test_a_beginning_is_enough_where_it_fits_one_letter(run: Any, kept: DeadLetterArchive) -> None:
    ran = await run(dlq_work.show_letter, Selection(ids=("0003",)))
    assert "event-3" in ran.out
    assert '{\n  "text": "why"\n}' in ran.out
    ran = await run(dlq_work.show_letter, Selection(ids=("000",)))
    assert "fits 3 letters (0003abcd of desk, 0002abcd of desk, 0001abcd of desk)" in str(ran.error)
    for unknown in ("9", ""):
        ran = await run(dlq_work.show_letter, Selection(ids=(unknown,)))
        assert f"there is no letter {unknown!r}" in str(ran.error)


async def test_a_dry_run_changes_nothing_and_tells_what_would_be_sent(
    run: Any, kept: DeadLetterArchive, dapr: FakeDapr
) -> None:
    before = {key: row.data for key, row in dapr.rows.items()}
    ran = await run(dlq_work.replay_letters, ALL, ReplayOptions())
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines() if "abcd" in line] == ["0001abcd", "0003abcd"]
    assert ran.err.splitlines() == [
        "refused 0002abcd: a replay would lack card, which must not be shown",
        "to replay letters without such fields: --without-redacted-fields",
        "would replay 2 letters: 2 to letters; 1 refused; nothing is sent yet: add --yes",
    ]
    assert dapr.published == []
    assert {key: row.data for key, row in dapr.rows.items()} == before


async def test_a_replay_sends_the_oldest_first_and_ends_with_1_where_one_is_refused(
    run: Any, kept: DeadLetterArchive, dapr: FakeDapr
) -> None:
    ran = await run(dlq_work.replay_letters, ALL, YES)
    assert ran.code == 1
    assert ran.out.splitlines() == ["replayed 0001abcd", "replayed 0003abcd"]
    assert [json.loads(each.data)["id"] for each in dapr.published] == ["event-1", "event-3"]
    ran = await run(dlq_work.replay_letters, ALL, ReplayOptions(yes=True, without_redacted_fields=True))
    assert (ran.code, ran.out) == (0, "replayed 0002abcd\n"), "what was replayed is not sent again"
    ran = await run(
        dlq_work.replay_letters, ALL, ReplayOptions(yes=True, again=True, without_redacted_fields=True, delete=True)
    )
    assert ran.err == "3 letters sent and deleted\n"
    assert not [key for key in dapr.rows if "/letter/" in key]
    assert await kept.find() == []


async def test_letters_that_are_not_there_or_are_none_stop_no_others(
    run: Any, kept: DeadLetterArchive, dapr: FakeDapr
) -> None:
    del dapr.rows["dead-letters/letter/0001abcd"]
    dapr.rows["dead-letters/letter/0002abcd"].data = b"no JSON"
    ran = await run(dlq_work.replay_letters, ALL, YES)
    assert ran.code == 1
    assert ran.out == "replayed 0003abcd\n"
    assert "refused 0001abcd: it is listed, but not in the archive any more, or not yet" in ran.err
    assert "refused 0002abcd: the sidecar of desk at" in ran.err
    ran = await run(dlq_work.delete_letters, ALL, yes=True)
    assert ran.out == "deleted 3 letters\n"
    assert await kept.find() == []


async def test_a_plan_for_another_topic_says_that_everybody_there_gets_it(run: Any, kept: DeadLetterArchive) -> None:
    ran = await run(dlq_work.replay_letters, Selection(ids=("0001",)), ReplayOptions(to="letters.v2"))
    (row,) = [line for line in ran.out.splitlines() if "abcd" in line]
    assert row.split() == ["0001abcd", "letters.v2", "event-1", "post.v1.Letter", "every", "consumer"]


async def test_a_failure_in_the_middle_tells_what_was_sent(run: Any, kept: DeadLetterArchive, dapr: FakeDapr) -> None:
    async def fail_the_next() -> None:
        dapr.fail("PublishEvent", grpc.StatusCode.UNAVAILABLE, "no broker")

    dapr.after("PublishEvent", fail_the_next)
    ran = await run(dlq_work.replay_letters, ALL, YES)
    assert ran.out == "replayed 0001abcd\n"
    assert "the sidecar of desk at" in str(ran.error)
    assert "UNAVAILABLE: no broker" in str(ran.error)
    assert ran.error.__notes__ == [
        "1 of 2 letters are sent, those listed above; 0003abcd failed, and may have been sent; the rest is not"
    ]


async def test_deleting_is_told_first_and_then_done(run: Any, kept: DeadLetterArchive) -> None:
    ran = await run(dlq_work.delete_letters, ALL, yes=False)
    assert ran.err == "would delete 3 letters; nothing is deleted yet: add --yes\n"
    assert len(await kept.find()) == 3
    ran = await run(dlq_work.delete_letters, Selection(ids=("0001",)), yes=True)
    assert ran.out == "deleted 1 letter\n"
    assert len(await kept.find()) == 2


async def test_a_sidecar_that_is_away_is_told_in_one_line(run: Any, kept: Any, dapr: FakeDapr) -> None:
    await dapr.stop()
    ran = await run(dlq_work.list_letters, ALL, limit=0, json=False)
    assert str(ran.error).startswith("the sidecar of desk at unix:")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b'{"a": 1}', '{\n  "a": 1\n}'),
        ("schön".encode(), "schön"),
        (b"\xff", "base64: /w=="),
        (b"a\x1b[31m", "base64: YRtbMzFt"),
        (b"", "(no data)"),
    ],
)
def test_data_is_shown_so_that_no_terminal_is_harmed(data: bytes, shown: str) -> None:
    assert data_text(DeadLetter(data=data)) == shown


async def test_what_looks_like_an_emoji_is_shown_as_it_is(run: Any, kept: DeadLetterArchive) -> None:
    odd = letter(4, data=b'{"urn": "urn:id:7"}')
    odd.source, odd.summary.reason = "urn:id:7", "[bold]:warning:[/]"
    await kept.add(odd)
    ran = await run(dlq_work.show_letter, Selection(ids=("0004",)))
    assert ran.out.count("urn:id:7") == 2
    for json_ in (True, False):
        ran = await run(dlq_work.list_letters, ALL, limit=1, json=json_)
        assert "[bold]:warning:[/]" in ran.out


@pytest.mark.parametrize("width", [60, 80, 100, 110, 139, 140, 200])
def test_tables_fit_their_terminal_and_show_whole_ids(width: int) -> None:
    dead = letter(1)
    dead.id, dead.summary.event_id = "0123456789abcdef", "86f23dcd-253e-4f4d-a88f-52ffd4b57583"
    dead.summary.reason = "payment_id: value is empty, which is not a valid UUID; " * 2
    dead.summary.code = "INVALID_REQUEST"
    found: Any = SimpleNamespace(entry=DeadLetterEntry(id=dead.id, summary=dead.summary), archive=None)
    for table in (
        letter_table([found], width, with_app=False),
        plan_table([(dead, "letters")], width, for_everybody=False),
    ):
        out = io.StringIO()
        Console(file=out, width=width, soft_wrap=True).print(table)
        assert "0123456789abcdef" in out.getvalue()
        assert max(len(line.rstrip()) for line in out.getvalue().splitlines()) <= width


def test_no_field_can_write_to_the_terminal() -> None:
    hostile = DeadLetter(id="1", source="\x1b[31mred\nfake: line")
    hostile.summary.reason = "a\nb\x07"
    lines = list(letter_lines(hostile, "desk"))
    assert all(map(str.isprintable, lines))
    shown = list(letter_lines(DeadLetter(id="1", data='{"a": "\x9b31m"}'.encode()), "desk"))
    assert all(map(str.isprintable, shown))


def test_ids_and_filters_exclude_each_other() -> None:
    Selection(ids=("a",)).check()
    Selection(everything=True, code="X").check()
    for wrong in (Selection(), Selection(ids=("a",), everything=True), Selection(ids=("a",), code="X")):
        with pytest.raises(typer.BadParameter):
            wrong.check()


def test_ages_are_read_or_refused() -> None:
    assert read_since("") is None
    now = Timestamp()
    now.GetCurrentTime()
    for text, seconds in (("90s", 90), ("2h", 7200), ("1.5d", 129600)):
        since = read_since(text)
        assert since is not None
        assert abs(now.ToNanoseconds() / 1e9 - since.timestamp() - seconds) < 60
    for wrong in ("soon", "5", "9999999999999d"):
        with pytest.raises(typer.BadParameter):
            read_since(wrong)


async def test_a_sidecar_elsewhere_needs_a_store_and_an_address(tmp_path: Path) -> None:
    project = Project.find(tmp_path)
    for where, said in (
        (Where(sidecar="localhost:1"), "APIBASE_DEAD_LETTER_STORE"),
        (Where(sidecar="ftp://x:y:z", store="s"), "HOST:PORT"),
    ):
        with pytest.raises(typer.BadParameter, match=said):
            async with open_archives(project, where):
                pass
    async with open_archives(project, Where(sidecar="localhost:1", store="s")) as (archive,):
        assert archive.store == "s"


async def test_the_token_of_a_sidecar_elsewhere_is_sent(
    socket_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"unix://{socket_folder}/token.sock"
    async with FakeDapr(address, token="hunter2"):
        where = Where(sidecar=address, store="statestore")
        monkeypatch.setenv("DAPR_API_TOKEN", "hunter2")
        async with open_archives(Project.find(tmp_path), where) as (archive,):
            assert await archive.find() == []
        monkeypatch.delenv("DAPR_API_TOKEN")
        async with open_archives(Project.find(tmp_path), where) as (archive,):
            with pytest.raises(StackError, match="UNAUTHENTICATED"):
                await archive.find()
