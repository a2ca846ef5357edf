"""`isthmus bridge dlq`: records that could not cross. Looked at, tried again, or given up, on record."""

import asyncio
import base64
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deploy.cli.operator import channels
from deploy.cli.output import Json, clear_errors, console, print_json

if TYPE_CHECKING:
    from isthmus.bridge.v1 import bridge_pb2

# Calls of one command; each replays up to some hundreds.
CALLS_MAX = 10_000
STATES = ("open", "replayed", "dropped")

app = typer.Typer(help="Records that could not cross: dead letters.", no_args_is_help=True)

Ids = Annotated[list[int] | None, typer.Argument(help="Dead letters by id.")]
Topic = Annotated[str, typer.Option(help="Only those of this topic.")]
Cause = Annotated[str, typer.Option(help="Only those with this cause, such as UNREADABLE.")]
All = Annotated[bool, typer.Option("--all", help="All that are open.")]


@app.command("list")
def list_letters(
    topic: Topic = "",
    cause: Cause = "",
    state: Annotated[str, typer.Option(help="open, replayed, dropped or all.")] = "open",
    after: Annotated[int, typer.Option(min=0, help="Begin behind this id.")] = 0,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="No more than this.")] = 100,
    as_json: Json = False,
) -> None:
    """Print dead letters in the order in which they were buried, without what they hold."""
    if state not in (*STATES, "all"):
        raise typer.BadParameter("open, replayed, dropped or all", param_hint="--state")
    with clear_errors():
        found = asyncio.run(_list(topic, cause, state, after, limit))
    if as_json:
        print_json(found)
        return
    _print(found)


@app.command()
def show(dead_letter_id: int, as_json: Json = False) -> None:
    """Print one dead letter with what it holds."""
    with clear_errors():
        found = asyncio.run(_show(dead_letter_id))
    if as_json:
        print_json(found)
        return
    out = console()
    for name, value in found.items():
        shown = json.dumps(value) if isinstance(value, list) else str(value)
        out.print(f"{name:16} {escape(shown)}")


@app.command()
def replay(ids: Ids = None, topic: Topic = "", cause: Cause = "", every: All = False, as_json: Json = False) -> None:
    """Let dead letters cross now, in the order of their records. Exit status 1 when some could not.

    Repeating it changes nothing: a letter that has landed is settled, an event that is there is not doubled.
    """
    with clear_errors():
        found = asyncio.run(_replay(_selection(ids, topic, cause, every)))
    if as_json:
        print_json(found)
    else:
        console().print(
            f"landed {found['landed']}, were there already {found['duplicates']}, sent outward again"
            f" {found['sent_again']}, superseded {found['superseded']}, failed {found['failed']}"
        )
        _print(found["letters"])
    if found["failed"]:
        raise typer.Exit(1)


@app.command()
def drop(
    reason: Annotated[str, typer.Option(help="Why; kept with the letters.")],
    ids: Ids = None,
    topic: Topic = "",
    cause: Cause = "",
    every: All = False,
    as_json: Json = False,
) -> None:
    """Give dead letters up: what they hold is erased. That they were there, and why they went, stays on record."""
    with clear_errors():
        dropped = asyncio.run(_drop(_selection(ids, topic, cause, every), reason))
    if as_json:
        print_json({"dropped": dropped})
    else:
        console().print(f"dropped {dropped}")


def _selection(ids: list[int] | None, topic: str, cause: str, every: bool) -> dict[str, Any]:
    if not (ids or topic or cause or every):
        raise typer.BadParameter("name ids, --topic, --cause, or --all")
    return {"dead_letter_ids": ids or [], "topic": topic, "cause": cause, "all": every}


async def _list(topic: str, cause: str, state: str, after: int, limit: int) -> list[dict[str, Any]]:
    from isthmus.bridge.v1 import bridge_pb2 as pb
    from isthmus.bridge.v1.bridge_pb2_grpc import BridgeStub

    wanted = pb.DeadLetterState.Value(f"DEAD_LETTER_STATE_{'UNSPECIFIED' if state == 'all' else state.upper()}")
    request = pb.ListDeadLettersRequest(after_id=after, limit=limit, topic=topic, cause=cause, state=wanted)
    async with channels("bridge-inbound") as (channel, *_):
        return list(map(_letter, (await BridgeStub(channel).ListDeadLetters(request)).dead_letters))


async def _show(dead_letter_id: int) -> dict[str, Any]:
    from isthmus.bridge.v1 import bridge_pb2 as pb
    from isthmus.bridge.v1.bridge_pb2_grpc import BridgeStub

    async with channels("bridge-inbound") as (channel, *_):
        found = await BridgeStub(channel).GetDeadLetter(pb.GetDeadLetterRequest(dead_letter_id=dead_letter_id))
    return {
        **_letter(found.dead_letter),
        "key_base64": base64.b64encode(found.key).decode(),
        "payload_base64": base64.b64encode(found.payload).decode() if found.HasField("payload") else None,
        "headers": json.loads(found.headers_json),
    }


async def _replay(selection: dict[str, Any]) -> dict[str, Any]:
    from isthmus.bridge.v1 import bridge_pb2 as pb
    from isthmus.bridge.v1.bridge_pb2_grpc import BridgeStub

    landed = duplicates = sent_again = superseded = 0
    failed: list[dict[str, Any]] = []
    request = pb.ReplayDeadLettersRequest(selection=pb.Selection(**selection))
    async with channels("bridge-inbound") as (channel, *_):
        for _call in range(CALLS_MAX):
            answer = await BridgeStub(channel).ReplayDeadLetters(request)
            landed += answer.landed
            duplicates += answer.duplicates
            sent_again += answer.sent_again
            superseded += answer.superseded
            failed += map(_letter, answer.failed)
            if not answer.next_after_id:
                break
            request.after_id = answer.next_after_id
    return {
        "landed": landed,
        "duplicates": duplicates,
        "sent_again": sent_again,
        "superseded": superseded,
        "failed": len(failed),
        "letters": failed,
    }


async def _drop(selection: dict[str, Any], reason: str) -> int:
    from isthmus.bridge.v1 import bridge_pb2 as pb
    from isthmus.bridge.v1.bridge_pb2_grpc import BridgeStub

    request = pb.DropDeadLettersRequest(selection=pb.Selection(**selection), reason=reason)
    async with channels("bridge-inbound") as (channel, *_):
        return (await BridgeStub(channel).DropDeadLetters(request)).dropped


def _letter(letter: "bridge_pb2.DeadLetter") -> dict[str, Any]:
    return {
        "id": letter.dead_letter_id,
        "direction": letter.direction,
        "topic": letter.topic,
        "partition": letter.partition if letter.HasField("partition") else None,
        "position": letter.position,
        "kind": letter.kind,
        "origin": letter.origin,
        "event_id": letter.event_id,
        "cause": letter.cause,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "state": STATES[letter.state - 1],
        "record_time": _time(letter.record_time_us),
        "buried_time": _time(letter.buried_time_us),
        "settled_time": _time(letter.settled_time_us),
        "reason": letter.reason,
    }


def _time(time_us: int) -> str | None:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="milliseconds") if time_us else None


def _print(letters: list[dict[str, Any]]) -> None:
    table = Table("id", "record", "origin", "cause", "detail", "attempts", "state", "buried", box=None)
    for each in letters:
        place = "outbox" if each["partition"] is None else each["partition"]
        table.add_row(
            str(each["id"]),
            escape(f"{each['topic']}/{place}@{each['position']}"),
            escape(each["origin"]),
            each["cause"],
            escape(each["detail"]),
            str(each["attempts"]),
            each["state"],
            each["buried_time"],
        )
    console().print(table if letters else "no dead letters")
