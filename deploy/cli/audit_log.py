"""The audit log of the running mesh, reached as its operator; the mesh's generated code is loaded with this file."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer
from isthmus.audit.v1 import audit_pb2 as pb
from isthmus.audit.v1.audit_pb2_grpc import AuditLogStub

from deploy.cli.operator import channels
from deploy.local.errors import LauncherError
from security.audit import ocsf
from security.audit.record import AuditRecord, Decision

if TYPE_CHECKING:
    from isthmus.audit.v1.audit_pb2_grpc import AuditLogAsyncStub

PAGE_SIZE = 1000
ABOUT_CHARACTERS_MAX = 128
ABOUT_OTHER = re.compile(r"[^A-Za-z0-9 ._:,/-]")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def connected() -> AsyncIterator["AuditLogAsyncStub"]:
    """The log's service. Failures become one line with a remedy."""
    async with channels("audit") as (channel, *_):
        yield AuditLogStub(channel)


async def records(log: "AuditLogAsyncStub", request: pb.ListRecordsRequest, limit: int) -> list[pb.AuditRecord]:
    """At most `limit` records that the request asks for, page by page. The request's position moves on with them."""
    found: list[pb.AuditRecord] = []
    while len(found) < limit:
        request.page_size = min(PAGE_SIZE, limit - len(found))
        page = (await log.ListRecords(request)).records
        found.extend(page)
        if page:
            if request.newest_first:
                request.before_sequence = page[-1].sequence
            else:
                request.after_sequence = page[-1].sequence
        if len(page) < request.page_size:
            break
    return found


async def record(activity: pb.Activity.ValueType, about: str) -> str:
    """Put on record what was done beside the services; durable when this returns the trace by which it is found.

    about: as the contract allows it; other characters become spaces. Raises LauncherError.
    """
    about = ABOUT_OTHER.sub(" ", about)[:ABOUT_CHARACTERS_MAX]
    async with connected() as log:
        answer = await log.RecordActivity(pb.RecordActivityRequest(activity=activity, about=about))
    return answer.trace_id


def record_if_there(activity: pb.Activity.ValueType, about: str) -> str:
    """The same for what must go on when the log is away: then it is said here that it is not on record. "" then."""
    try:
        return asyncio.run(record(activity, about))
    except LauncherError as error:
        typer.echo(f"This is not on record: {error}", err=True)
        return ""


async def leaves(
    log: "AuditLogAsyncStub", from_time_us: int, to_time_us: int
) -> AsyncIterator[tuple[AuditRecord, int, int]]:
    """The signed records of a time, in the tree's order, each with its sequence number and its leaf."""
    proof = await log.ProveRange(pb.ProveRangeRequest(from_time_us=from_time_us, to_time_us=to_time_us))
    request = pb.ListLeavesRequest(first_leaf=proof.first_leaf, end_leaf=proof.end_leaf, page_size=PAGE_SIZE)
    while request.first_leaf < request.end_leaf:
        page = (await log.ListLeaves(request)).records
        for record in page:
            yield hashed(record), record.sequence, record.leaf_index
        if len(page) < PAGE_SIZE:
            break
        request.first_leaf = page[-1].leaf_index + 1


async def events(log: "AuditLogAsyncStub", from_time_us: int, to_time_us: int) -> AsyncIterator[dict[str, Any]]:
    """The lines of an export: calls by their leaf, checkpoints behind what they cover, the newest checkpoint last."""
    proof = await log.ProveRange(pb.ProveRangeRequest(from_time_us=from_time_us, to_time_us=to_time_us))
    if not proof.HasField("checkpoint"):
        raise LauncherError("Nothing is signed yet", "Try again in a few seconds")
    marks = _checkpoints(log, proof.first_leaf, proof.end_leaf)
    mark = await anext(marks, None)
    request = pb.ListLeavesRequest(first_leaf=proof.first_leaf, end_leaf=proof.end_leaf, page_size=PAGE_SIZE)
    while True:
        page = (await log.ListLeaves(request)).records
        for record in page:
            while mark is not None and mark.tree_size <= record.leaf_index:
                yield ocsf.checkpoint(mark.note, mark.time_us)
                mark = await anext(marks, None)
            yield ocsf.event(hashed(record), record.sequence, record.leaf_index)
        if len(page) < PAGE_SIZE:
            break
        request.first_leaf = page[-1].leaf_index + 1
    while mark is not None and mark.tree_size < proof.checkpoint.tree_size:
        yield ocsf.checkpoint(mark.note, mark.time_us)
        mark = await anext(marks, None)
    ends = (proof.first_leaf, proof.end_leaf, proof.before, proof.behind)
    yield ocsf.checkpoint(proof.checkpoint.note, proof.checkpoint.time_us, ends)


async def _checkpoints(log: "AuditLogAsyncStub", after: int, until: int) -> AsyncIterator[pb.Checkpoint]:
    request = pb.ListCheckpointsRequest(after_tree_size=after, page_size=PAGE_SIZE)
    while True:
        page = (await log.ListCheckpoints(request)).checkpoints
        for checkpoint in page:
            if checkpoint.tree_size > until:
                return
            yield checkpoint
        if len(page) < PAGE_SIZE:
            return
        request.after_tree_size = page[-1].tree_size


def hashed(record: pb.AuditRecord) -> AuditRecord:
    """What is hashed of a record."""
    fields = {name: getattr(record, name) for name in AuditRecord.__slots__}
    return AuditRecord(**fields | {"decision": Decision(int(record.decision))})


def plain(record: pb.AuditRecord) -> dict[str, Any]:
    return {
        "sequence": record.sequence,
        "leaf_index": record.leaf_index if record.HasField("leaf_index") else None,
        "record_id": record.record_id,
        "time": (EPOCH + timedelta(microseconds=record.time_us)).isoformat(),
        "peer": record.peer,
        "token_subject": record.token_subject,
        "token_client": record.token_client,
        "method": record.method,
        "data_subject": record.data_subject,
        "decision": pb.Decision.Name(record.decision).removeprefix("DECISION_").lower(),
        "result": record.result,
        "reason": record.reason,
        "trace_id": record.trace_id,
        "workload": record.workload,
        "node": record.node,
        "leaf_hash": record.leaf_hash.hex(),
    }
