"""Does the audit log hold what was acknowledged, and does it verify? Asked as the operator asks."""

import asyncio
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from isthmus.audit.v1 import audit_pb2 as pb
from isthmus.audit.v1.audit_pb2_grpc import AuditLogStub

from chaos.checkers.books import DEADLINE_S, Channel

PAGE = 1000
PAGES_MAX = 500
VERIFY_DEADLINE_S = 120.0
# What the contract takes as the subject of an activity.
ABOUT_CHARACTERS_MAX = 128
ABOUT_OTHER = re.compile(r"[^A-Za-z0-9 ._:,/-]")


async def leaves(channel: Channel, methods: Iterable[str], from_time_us: int) -> dict[str, set[str]]:
    """By method, the traces of the records that have their leaf, written from `from_time_us` on.

    Raises:
        MeshError: the audit service did not answer.
    """
    stub, found = AuditLogStub(channel("audit")), defaultdict[str, set[str]](set)
    for method in methods:
        after = 0
        for _ in range(PAGES_MAX):
            request = pb.ListRecordsRequest(
                method=method, from_time_us=from_time_us, after_sequence=after, page_size=PAGE
            )
            records = (await stub.ListRecords(request, timeout=DEADLINE_S, wait_for_ready=True)).records
            found[method] |= {record.trace_id for record in records if record.HasField("leaf_index")}
            if len(records) < PAGE:
                break
            after = records[-1].sequence
    return dict(found)


async def put_on_record(channel: Channel, activity: pb.Activity.ValueType, about: str) -> str:
    """Returns the trace by which the record is found.

    Raises:
        MeshError: the audit log cannot be written to.
    """
    about = ABOUT_OTHER.sub(" ", about)[:ABOUT_CHARACTERS_MAX]
    request = pb.RecordActivityRequest(activity=activity, about=about)
    answer = await AuditLogStub(channel("audit")).RecordActivity(request, timeout=DEADLINE_S, wait_for_ready=True)
    return answer.trace_id


async def verifies(home: Path) -> bool:
    """`isthmus audit verify` of a home: exit status 0."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("isthmus"),
        *("audit", "verify", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"ISTHMUS_HOME": str(home)},
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), VERIFY_DEADLINE_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        return False
    # It must have looked at something: a report that cannot be read shows nothing.
    return process.returncode == 0 and bool(json.loads(output))
