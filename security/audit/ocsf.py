"""Audit records as OCSF 1.3 events, one JSON object a line: class API Activity (6003) for calls.

Beside the event stands, under `unmapped`, the record just as it was hashed, and its leaf. Checkpoints stand between
the events, each behind the last leaf that it covers, as events of the base class (0): what has signed the lines above.
Of a record that retention has removed, its leaf is left, as such an event; the removals themselves stand at the end.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from security.audit.record import AuditRecord, Decision

SCHEMA_VERSION: Final = "1.3.0"
API_ACTIVITY: Final = 6003
BASE_EVENT: Final = 0
_APPLICATION: Final = 6
_OTHER: Final = 99
_INFORMATIONAL, _LOW, _MEDIUM = 1, 2, 3
_SUCCESS, _FAILURE = 1, 2
_PRODUCT: Final = {"name": "Isthmus", "vendor_name": "Isthmus"}
# Create, read, update, delete: by the verb that a method's name begins with.
_ACTIVITIES: Final[Mapping[int, tuple[str, ...]]] = {
    1: ("Create", "Place", "Register", "Authorize", "Hold"),
    2: ("Get", "List", "Count", "Report", "Summarize", "Check", "Prove"),
    3: ("Put", "Update", "Capture", "Cancel", "Refund", "Return", "Take"),
    4: ("Delete", "Erase"),
}


def event(record: AuditRecord, sequence: int, leaf_index: int) -> dict[str, Any]:
    """The event of one call."""
    service, _, operation = record.method.rpartition("/")
    activity = _activity(operation)
    succeeded = record.result == "OK"
    denied = record.decision is Decision.DENIED
    made: dict[str, Any] = {
        "category_uid": _APPLICATION,
        "class_uid": API_ACTIVITY,
        "activity_id": activity,
        "type_uid": API_ACTIVITY * 100 + activity,
        "time": record.time_us // 1000,
        "severity_id": _MEDIUM if denied else _INFORMATIONAL if succeeded else _LOW,
        "status_id": _SUCCESS if succeeded else _FAILURE,
        "status_code": record.result,
        "metadata": {
            "version": SCHEMA_VERSION,
            "product": _PRODUCT,
            "log_name": "audit",
            "uid": record.record_id,
            "sequence": leaf_index,
            "correlation_uid": record.trace_id,
        },
        # Who calls: the token's subject, or the workload itself where there was no token.
        "actor": {"user": {"uid": record.token_subject or record.peer or "unknown"}, "app_uid": record.token_client},
        "src_endpoint": {"uid": record.peer or "unknown"},
        "dst_endpoint": {"name": record.node, "svc_name": record.workload},
        "api": {"operation": operation, "service": {"name": service.lstrip("/")}, "request": {"uid": record.trace_id}},
        "unmapped": {
            "sequence": sequence,
            "leaf_index": leaf_index,
            "leaf_hash": record.leaf_hash().hex(),
            "record": json.loads(record.canonical()),
        },
    }
    if record.reason:
        made["status_detail"] = record.reason
    if record.data_subject:
        made["resources"] = [{"type": "data subject", "uid": record.data_subject}]
    return made


def removed(leaf_index: int, sequence: int, leaf_hash: bytes, removal: int) -> dict[str, Any]:
    """What is left of a record that was removed. removal: the sequence number of the record that says so."""
    left = {"leaf_index": leaf_index, "sequence": sequence, "leaf_hash": leaf_hash.hex(), "removal": removal}
    return _base("Removed", None, left)


def removal(
    record: AuditRecord, sequence: int, note: str, before: tuple[int, Sequence[bytes]], behind: Sequence[bytes]
) -> dict[str, Any]:
    """A removal: its record, the log's signature over that, and what it removed of leaves that were not exported.

    before: how many leaves, and their compact range. behind: the compact range of the others.
    """
    count, hashes = before
    proof = {"before_count": count, "before": _texts(hashes), "behind": _texts(behind)}
    said = {"sequence": sequence, "record": json.loads(record.canonical()), "note": note}
    return _base("Removal", record.time_us, said | proof)


def checkpoint(
    note: str, time_us: int, proof: tuple[int, int, Sequence[bytes], Sequence[bytes]] | None = None
) -> dict[str, Any]:
    """A checkpoint over the lines above it.

    proof: for the last line of an export: the leaves [first, end) that were exported, and the compact ranges of those
    before and behind them.
    """
    unmapped: dict[str, Any] = {"checkpoint": note}
    if proof is not None:
        first, end, before, behind = proof
        unmapped |= {"first_leaf": first, "end_leaf": end, "before": _texts(before), "behind": _texts(behind)}
    return _base("Checkpoint", time_us, unmapped)


def _base(activity: str, time_us: int | None, unmapped: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "category_uid": 0,
        "class_uid": BASE_EVENT,
        "activity_id": _OTHER,
        "activity_name": activity,
        "type_uid": BASE_EVENT * 100 + _OTHER,
        # The schema asks for one, also where the time went with the record.
        "time": (time_us or 0) // 1000,
        "severity_id": _INFORMATIONAL,
        "metadata": {"version": SCHEMA_VERSION, "product": _PRODUCT, "log_name": "audit"},
        "unmapped": unmapped,
    }


def record_of(fields: Mapping[str, Any]) -> AuditRecord:
    """The record that stands in an event, from its canonical form. Raises ValueError, KeyError or TypeError."""
    values = dict(fields)
    decision = Decision[values.pop("decision")]
    record = AuditRecord(decision=decision, **values)
    if not all(isinstance(value, int if name == "time_us" else str) for name, value in values.items()):
        raise TypeError("a field has another type")
    return record


def _activity(operation: str) -> int:
    return next((activity for activity, verbs in _ACTIVITIES.items() if operation.startswith(verbs)), _OTHER)


def _texts(hashes: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(each).decode() for each in hashes]
