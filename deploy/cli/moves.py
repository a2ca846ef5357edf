"""`isthmus bridge partitions | move-kafka | move-database`: where events and rows lie, changed without losing any."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.operator import channels
from deploy.cli.output import Json, clear_errors, console, print_json

if TYPE_CHECKING:
    from deploy.local.kafka.moving import Cluster, Place

PAUSE_S = 1.0
# Nothing lands for so long: waiting longer would help nobody.
STALLED_S = 60.0
Within = Annotated[float, typer.Option(min=1, max=86_400, help="Give up after this many seconds.")]


def partitions(
    topic: Annotated[str, typer.Argument(help="Such as isthmus.click.v1.")],
    count: Annotated[int, typer.Argument(min=1, help="How many it is to have.")],
    within: Within = 120.0,
    as_json: Json = False,
) -> None:
    """Give a topic more partitions, and wait until the bridge reads all of them. Exit status 1 when time is up."""
    with clear_errors():
        found = asyncio.run(_partitions(topic, count, within, _teller(as_json)))
    if as_json:
        print_json(found)
    else:
        console().print(
            f"{topic}: {found['before']} partitions before, {found['partitions']} now, {found['read']} read"
        )
    if found["read"] < found["partitions"]:
        raise typer.Exit(1)


def move_kafka(
    to: Annotated[str, typer.Option(help="The new cluster: host:port, or several separated by commas.")],
    identity: Annotated[
        Path | None, typer.Option(help="Certificate and key that may alter the new cluster; by default the broker's.")
    ] = None,
    within: Within = 600.0,
    as_json: Json = False,
) -> None:
    """Leave the running mesh's Kafka for another, which must be new: everything has landed, or is kept by who wrote it.

    Edge nodes go on answering and keep events in their spools, until the mesh is started on the new cluster.
    """
    with clear_errors():
        found = asyncio.run(_move_kafka(to, identity, within, _teller(as_json)))
    if as_json:
        print_json(found)
        return
    console().print(
        f"[green]moved[/] {found['partitions']} partitions and {found['copied']} records of compacted topics. Now start"
        f" the mesh with ISTHMUS_KAFKA_BOOTSTRAP={to}"
    )


def move_database(
    to: Annotated[str, typer.Option(help="URL of an empty database, as ISTHMUS_DATABASE_URL will be.")],
    as_json: Json = False,
) -> None:
    """Copy the database of a mesh that does not run into another, and compare. Kafka and the spools keep what comes."""
    with clear_errors():
        found = asyncio.run(_move_database(to, _teller(as_json)))
    if as_json:
        print_json(found)
    else:
        console().print(
            f"[green]moved[/] {found['tables']} tables, {found['rows']:,} rows, counted in both. Now start the mesh"
            " with ISTHMUS_DATABASE_URL"
        )


def _teller(as_json: bool) -> Callable[[str], None]:
    return (lambda _: None) if as_json else console().print


async def _partitions(topic: str, count: int, within: float, tell: Callable[[str], None]) -> dict[str, Any]:
    from deploy.local import topics
    from deploy.local.kafka import moving

    before = await asyncio.to_thread(moving.grow, _running(), topics.crossing(), topic, count)
    deadline, read = time.monotonic() + within, -1
    while time.monotonic() < deadline:
        seen = sum(place[0] == topic for place in await _landed())
        if seen != read:
            read = seen
            tell(f"the bridge reads {read} of {count} partitions")
        if read >= count:
            break
        await asyncio.sleep(PAUSE_S)
    return {"topic": topic, "before": before, "partitions": count, "read": read}


async def _move_kafka(to: str, identity: Path | None, within: float, tell: Callable[[str], None]) -> dict[str, Any]:
    from deploy.local import topics
    from deploy.local.kafka import moving
    from deploy.local.kafka.moving import Cluster

    source, events = _running(), topics.crossing()
    target = Cluster(to, identity or source.identity)
    inward = [event.topic for event in events if not event.compacted]
    tell("making topics and rules in the new cluster")
    await asyncio.to_thread(moving.prepare, target, events)
    if used := await asyncio.to_thread(_used, target, inward):
        raise _refusal(f"The new cluster has records in {used} already", "Name a cluster that is new")
    ids = await asyncio.to_thread(moving.topic_ids, target, inward)
    tell("letting nobody write into the old one: spools and outbox keep what comes")
    await asyncio.to_thread(moving.fence, source, events)
    ends = await asyncio.to_thread(moving.ends, source, inward)
    again = not any((await _landed()).values()) and any(ends.values()) and await _move(ends, ids)
    if again:
        tell("the checkpoints have moved before")
    else:
        ends = await _drained(source, inward, within, tell)
    copied = 0
    for event in events:
        if event.compacted:
            tell(f"copying {event.topic}")
            copied += await asyncio.to_thread(moving.copy_newest, source, target, event.topic)
    tell("moving the checkpoints")
    if not await _move(ends, ids):
        raise _refusal("Records have come into the old cluster meanwhile", "Repeat the command")
    return {"partitions": len(ends), "copied": copied}


async def _move(ends: "dict[Place, int]", ids: dict[str, str]) -> bool:
    """Whether the checkpoints are those of the new cluster now, or were so before."""
    from isthmus.bridge.v1 import bridge_pb2 as pb
    from isthmus.bridge.v1.bridge_pb2_grpc import BridgeStub

    from mesh.errors import FailedPrecondition

    request = pb.MoveLogRequest(
        ends=[pb.LogEnd(topic=topic, partition=number, end=end) for (topic, number), end in ends.items()],
        topic_ids=ids,
    )
    async with channels("bridge-inbound") as (channel, *_):
        try:
            await BridgeStub(channel).MoveLog(request)
        except FailedPrecondition:
            return False
    return True


async def _drained(
    source: "Cluster", names: list[str], within: float, tell: Callable[[str], None]
) -> "dict[Place, int]":
    """Where the old log ends, when all of it has landed and it has stopped growing."""
    from deploy.local.kafka import moving

    deadline, before, least = time.monotonic() + within, None, 1 << 63
    stalled = time.monotonic() + STALLED_S
    while time.monotonic() < min(deadline, stalled):
        ends = await asyncio.to_thread(moving.ends, source, names)
        landed = await _landed()
        left = sum(max(0, end - landed.get(place, 0)) for place, end in ends.items())
        # What was on its way when the rules changed may still have been written.
        if not left and ends == before:
            return ends
        if left < least:
            least, stalled = left, time.monotonic() + STALLED_S
            tell(f"{left:,} records are left to land")
        before = ends
        await asyncio.sleep(PAUSE_S)
    raise _refusal(
        f"{least:,} records of the old cluster do not land",
        "See `isthmus bridge flow` and docs/runbooks/moves.md; starting the mesh again undoes it",
    )


async def _landed() -> "dict[Place, int]":
    """The next offset of each partition that the bridge has claimed."""
    from isthmus.warehouse.v1 import warehouse_pb2
    from isthmus.warehouse.v1.warehouse_pb2_grpc import WarehouseStub

    async with channels("warehouse") as (channel, *_):
        answer = await WarehouseStub(channel).ReportLanding(warehouse_pb2.ReportLandingRequest())
    return {(each.topic, each.partition): each.next_offset for each in answer.partitions}


async def _move_database(to: str, tell: Callable[[str], None]) -> dict[str, Any]:
    from deploy.local.moving import copy_database
    from deploy.local.settings import LauncherSettings

    moved = await copy_database(LauncherSettings(), to, tell)
    return {"tables": moved.tables, "rows": moved.rows}


def _running() -> "Cluster":
    """The cluster of the running mesh, as the launcher alters it: as its broker."""
    from deploy.local import topology
    from deploy.local.kafka import broker
    from deploy.local.kafka.moving import Cluster
    from deploy.local.settings import LauncherSettings

    settings = LauncherSettings()
    home = settings.layout
    ours = topology.read(home.topology).of(broker.WORKLOAD)
    # Of somebody else's cluster only the identity is here.
    addresses = [str(listen) for one in ours if (listen := one.listen("kafka"))] or [str(settings.kafka_bootstrap)]
    return Cluster(",".join(addresses), home.identity(ours[0].name if ours else broker.WORKLOAD))


def _used(target: "Cluster", names: list[str]) -> str:
    from deploy.local.kafka import moving

    return ", ".join(sorted({topic for (topic, _), end in moving.ends(target, names).items() if end}))


def _refusal(message: str, remedy: str) -> Exception:
    from deploy.local.errors import LauncherError

    return LauncherError(message, remedy)
