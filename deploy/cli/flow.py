"""`isthmus bridge pause | resume | rate-limit | drain`: how records are taken from Kafka, by all workers."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.operator import channels
from deploy.cli.output import Json, clear_errors, console, print_json

if TYPE_CHECKING:
    from isthmus.bridge.v1 import bridge_pb2

PAUSE_S = 0.5


def show(as_json: Json = False) -> None:
    """Print whether records are taken from Kafka, how fast at most, and how many wait there."""
    _print(_call(None), as_json)


def pause(as_json: Json = False) -> None:
    """Take no more records from Kafka, within two seconds; they wait there."""
    _print(_call({"paused": True}), as_json)


def resume(as_json: Json = False) -> None:
    """Take records again."""
    _print(_call({"paused": False}), as_json)


def rate_limit(
    records_per_s: Annotated[int, typer.Argument(min=0, max=1_000_000, help="Per worker; 0: no bound.")],
    as_json: Json = False,
) -> None:
    """Bound how many records a second each worker takes."""
    _print(_call({"records_per_s_max": records_per_s}), as_json)


def drain(
    within: Annotated[float, typer.Option(min=1, max=86_400, help="Give up after this many seconds.")] = 600.0,
    as_json: Json = False,
) -> None:
    """Wait until nothing waits in Kafka any more, printing how much is left. Exit status 1 when time is up."""
    deadline = time.monotonic() + within
    before = -1
    while True:
        found = _call(None)
        if found["waiting"] == 0 or time.monotonic() >= deadline:
            break
        if not as_json and found["waiting"] != before:
            console().print(f"{found['waiting']:,} records wait" + (" (paused)" if found["paused"] else ""))
            before = found["waiting"]
        time.sleep(PAUSE_S)
    _print(found, as_json)
    if found["waiting"]:
        raise typer.Exit(1)


def _call(change: dict[str, Any] | None) -> dict[str, Any]:
    with clear_errors():
        return asyncio.run(_flow(change))


async def _flow(change: dict[str, Any] | None) -> dict[str, Any]:
    from isthmus.bridge.v1 import bridge_pb2 as pb
    from isthmus.bridge.v1.bridge_pb2_grpc import BridgeStub

    async with channels("bridge-inbound") as workers:
        answers = [await BridgeStub(channel).GetFlow(pb.GetFlowRequest()) for channel in workers]
        flow = answers[0].flow
        if change is not None:
            for name, value in change.items():
                setattr(flow, name, value)
            flow = (await BridgeStub(workers[0]).SetFlow(pb.SetFlowRequest(flow=flow))).flow
    return _shown(flow, sum(answer.waiting for answer in answers))


def _shown(flow: "bridge_pb2.Flow", waiting: int) -> dict[str, Any]:
    return {"paused": flow.paused, "records_per_s_max": flow.records_per_s_max, "waiting": waiting}


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    bound = f"at most {found['records_per_s_max']:,} records a second" if found["records_per_s_max"] else "no bound"
    console().print(f"{'paused' if found['paused'] else 'flowing'}, {bound}, {found['waiting']:,} records wait")
