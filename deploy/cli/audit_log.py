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
REMOVALS_AT_ONCE = 100
ABOUT_CHARACTERS_MAX = 128
ABOUT_OTHER = re.compile(r"[^A-Za-z0-9 ._:,/-]")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A line of an export, and the leaf that it stands at.
_Line = tuple[int, dict[str, Any]]


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
    async for record in _records(log, proof.first_leaf, proof.end_leaf):
        yield hashed(record), record.sequence, record.leaf_index


async def events(log: "AuditLogAsyncStub", from_time_us: int, to_time_us: int) -> AsyncIterator[dict[str, Any]]:
    """The lines of an export: calls and what is left of removed ones by their leaf, checkpoints behind what they cover,
    then removals, and the newest checkpoint last."""
    proof = await log.ProveRange(pb.ProveRangeRequest(from_time_us=from_time_us, to_time_us=to_time_us))
    if not proof.HasField("checkpoint"):
        raise LauncherError("Nothing is signed yet", "Try again in a few seconds")
    first, end, size = proof.first_leaf, proof.end_leaf, proof.checkpoint.tree_size
    async for line in _merged(_checkpoints(log, first, end, size), _calls(log, first, end), _removed(log, first, end)):
        yield line
    async for line in _removals(log, first, end):
        yield line
    ends = (first, end, proof.before, proof.behind)
    yield ocsf.checkpoint(proof.checkpoint.note, proof.checkpoint.time_us, ends)


async def _merged(*streams: AsyncIterator[_Line]) -> AsyncIterator[dict[str, Any]]:
    """The lines of all by their leaf; of those with one leaf, the first stream's first."""
    heads = [await anext(stream, None) for stream in streams]
    while any(heads):
        at = min((head[0], at) for at, head in enumerate(heads) if head)[1]
        head, heads[at] = heads[at], await anext(streams[at], None)
        if head:
            yield head[1]


async def _records(log: "AuditLogAsyncStub", first: int, end: int) -> AsyncIterator[pb.AuditRecord]:
    request = pb.ListLeavesRequest(first_leaf=first, end_leaf=end, page_size=PAGE_SIZE)
    while request.first_leaf < end:
        page = (await log.ListLeaves(request)).records
        for record in page:
            yield record
        if len(page) < PAGE_SIZE:
            return
        request.first_leaf = page[-1].leaf_index + 1


async def _calls(log: "AuditLogAsyncStub", first: int, end: int) -> AsyncIterator[_Line]:
    async for record in _records(log, first, end):
        yield record.leaf_index, ocsf.event(hashed(record), record.sequence, record.leaf_index)


async def _removed(log: "AuditLogAsyncStub", first: int, end: int) -> AsyncIterator[_Line]:
    request = pb.ListRemovedLeavesRequest(first_leaf=first, end_leaf=end, page_size=PAGE_SIZE)
    while request.first_leaf < end:
        page = (await log.ListRemovedLeaves(request)).leaves
        for leaf in page:
            yield leaf.leaf_index, ocsf.removed(leaf.leaf_index, leaf.sequence, leaf.leaf_hash, leaf.removal)
        if len(page) < PAGE_SIZE:
            return
        request.first_leaf = page[-1].leaf_index + 1


async def _removals(log: "AuditLogAsyncStub", first: int, end: int) -> AsyncIterator[dict[str, Any]]:
    request = pb.ProveRemovalsRequest(first_leaf=first, end_leaf=end, page_size=REMOVALS_AT_ONCE)
    while True:
        page = (await log.ProveRemovals(request)).removals
        for each in page:
            said, before = each.record, (each.before_count, each.before)
            yield ocsf.removal(hashed(said), said.sequence, each.note, before, each.behind)
        if len(page) < REMOVALS_AT_ONCE:
            return
        request.after_removal = page[-1].record.sequence


async def _checkpoints(log: "AuditLogAsyncStub", after: int, until: int, newest: int) -> AsyncIterator[_Line]:
    """All but the newest, each before the first leaf that it does not cover."""
    request = pb.ListCheckpointsRequest(after_tree_size=after, page_size=PAGE_SIZE)
    while True:
        page = (await log.ListCheckpoints(request)).checkpoints
        for checkpoint in page:
            if checkpoint.tree_size > until or checkpoint.tree_size >= newest:
                return
            yield checkpoint.tree_size, ocsf.checkpoint(checkpoint.note, checkpoint.time_us)
        if len(page) < PAGE_SIZE:
            return
        request.after_tree_size = page[-1].tree_size


def hashed(record: pb.AuditRecord) -> AuditRecord:
    """What is hashed of a record."""
    fields = {name: getattr(record, name) for name in AuditRecord.__struct_fields__}
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
