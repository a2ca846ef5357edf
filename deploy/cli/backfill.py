"""`isthmus bridge backfill | shadow`: records that Kafka still holds, landed once more."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.operator import channels
from deploy.cli.output import Json, clear_errors, console, print_json

if TYPE_CHECKING:
    from isthmus.bridge.v1.bridge_pb2_grpc import BridgeAsyncStub

# Calls of one command; each takes some thousands of records.
CALLS_MAX = 1_000_000

Topic = Annotated[str, typer.Argument(help="Such as isthmus.click.v1.")]


def backfill(
    topic: Topic,
    since: Annotated[
        datetime | None, typer.Option("--from", help="Written to Kafka at this time (UTC) or later.")
    ] = None,
    until: Annotated[datetime | None, typer.Option("--to", help="Written before this time (UTC).")] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="This partition alone.")] = None,
    from_offset: Annotated[int | None, typer.Option(min=0, help="Begin here; with --partition.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Into a table beside the warehouse's.")] = False,
    as_json: Json = False,
) -> None:
    """Land records once more, those that are not there. May be broken off and repeated; it changes nothing twice."""
    if from_offset is not None and partition is None:
        raise typer.BadParameter(
            "an offset is one of a partition: name it with --partition", param_hint="--from-offset"
        )
    with clear_errors():
        found = asyncio.run(_backfill(topic, _us(since), _us(until), partition, from_offset, shadow, not as_json))
    if as_json:
        print_json(found)
        return
    where = "its shadow" if shadow else "the warehouse"
    console().print(
        f"read {found['read']:,}: {found['landed']:,} landed in {where}, {found['duplicates']:,} were there already,"
        f" {found['refused']:,} cannot land"
    )


def shadow(
    topic: Topic,
    drop: Annotated[bool, typer.Option("--drop", help="Remove the shadow afterwards.")] = False,
    as_json: Json = False,
) -> None:
    """Hold a shadow against the warehouse. Exit status 1 when they differ."""
    with clear_errors():
        found = asyncio.run(_compare(topic, drop))
    if as_json:
        print_json(found)
    else:
        console().print(
            f"{found['rows']:,} rows in the shadow: {found['missing']:,} are not in the warehouse,"
            f" {found['different']:,} stand there with other values"
        )
    if found["missing"] or found["different"]:
        raise typer.Exit(1)


def _us(time: datetime | None) -> int:
    return 0 if time is None else int(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000_000)


async def _backfill(
    topic: str, from_us: int, to_us: int, partition: int | None, from_offset: int | None, shadow: bool, tell: bool
) -> dict[str, Any]:
    from isthmus.bridge.v1 import bridge_pb2 as pb
    from isthmus.bridge.v1.bridge_pb2_grpc import BridgeStub

    totals = dict.fromkeys(("read", "landed", "duplicates", "refused"), 0)
    async with channels("bridge-inbound") as (channel, *_):
        stub = BridgeStub(channel)
        asked = pb.FindRecordsRequest(topic=topic, from_us=from_us, to_us=to_us)
        spans = [
            each for each in (await stub.FindRecords(asked)).spans if partition is None or each.partition == partition
        ]
        for span in spans:
            span.begin = span.begin if from_offset is None else min(from_offset, span.end)
        whole = sum(span.end - span.begin for span in spans)
        for span in spans:
            async for answer in _land(stub, pb.LandAgainRequest(topic=topic, span=span, shadow=shadow)):
                for name in totals:
                    totals[name] += getattr(answer, name)
                if tell:
                    console().print(f"partition {span.partition}: at {answer.next_offset:,} of {span.end:,}")
    return {**totals, "offsets": whole}


async def _land(stub: "BridgeAsyncStub", request: Any) -> AsyncIterator[Any]:
    for _ in range(CALLS_MAX):
        if request.span.begin >= request.span.end:
            return
        answer = await stub.LandAgain(request)
        yield answer
        request.span.begin = answer.next_offset


async def _compare(topic: str, drop: bool) -> dict[str, Any]:
    from isthmus.bridge.v1 import bridge_pb2 as pb
    from isthmus.bridge.v1.bridge_pb2_grpc import BridgeStub

    async with channels("bridge-inbound") as (channel, *_):
        found = await BridgeStub(channel).CompareShadow(pb.CompareShadowRequest(topic=topic, drop=drop))
    return {"rows": found.rows, "missing": found.missing, "different": found.different}
