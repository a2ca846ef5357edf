"""Alerts on rules as data: when records of a kind come too often, or at the wrong time."""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from mesh.contract import Contract
from mesh.contract.model import DataClass
from mesh.errors import FailedPrecondition
from security.audit.record import AuditRecord, Decision

RULES: Final = Path(__file__).with_name("alert_rules.json")
# Callers that one rule remembers; those seen longest ago are forgotten first.
CALLERS_MAX: Final = 10_000
COUNT_MAX: Final = 10_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class AlertRulesMalformed(FailedPrecondition):
    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            "ALERT_RULES_MALFORMED", f"{path} holds no alert rules: {why}", remedy="Correct the file, or remove it."
        )


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`count` records within `within_s` seconds from one caller that fit all that is asked for; empty: any."""

    name: str
    # Beginnings of method paths: /isthmus.members.v1.DataKeys/
    methods: tuple[str, ...] = ()
    decision: Literal["allowed", "denied", ""] = ""
    # Beginnings of reasons: LOG_REFUTED
    reasons: tuple[str, ...] = ()
    # Calls that succeeded and whose answer holds personal data.
    personal: bool = False
    # Workloads that call.
    callers: tuple[str, ...] = ()
    # [first hour, hour after the last): calls outside of these hours.
    outside_hours: tuple[int, int] | None = None
    timezone: str = "UTC"
    # What one caller is.
    by: Literal["peer", "token_subject"] = "peer"
    count: Annotated[int, msgspec.Meta(ge=1, le=COUNT_MAX)] = 1
    within_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 60


class Alert(msgspec.Struct, frozen=True):
    """caller: the SPIFFE id or the token's subject. time_us: of the newest record that counted."""

    rule: str
    caller: str
    records: int
    time_us: int
    method: str
    data_subject: str
    trace_id: str


def read_rules(path: Path) -> Sequence[Rule]:
    """Raises AlertRulesMalformed."""
    try:
        rules = msgspec.json.decode(path.read_bytes(), type=list[Rule])
        for rule in rules:
            ZoneInfo(rule.timezone)
    except (OSError, msgspec.MsgspecError, ZoneInfoNotFoundError, ValueError) as error:
        raise AlertRulesMalformed(path, str(error)) from error
    return rules


class AlertRules:
    """Counts records by rule and caller, in bounded memory. A caller alerts once for each `count` of its records."""

    def __init__(self, rules: Sequence[Rule], contract: Contract) -> None:
        personal = {path for path, method in contract.methods.items() if method.answer_class >= DataClass.PERSONAL}
        self._counters = [_Counter(rule, personal) for rule in rules]

    def take(self, record: AuditRecord) -> Iterator[Alert]:
        for counter in self._counters:
            alert = counter.take(record)
            if alert is not None:
                yield alert


class _Counter:
    def __init__(self, rule: Rule, personal: set[str]) -> None:
        self._rule = rule
        self._personal = personal
        self._zone = ZoneInfo(rule.timezone)
        self._seen: OrderedDict[str, deque[int]] = OrderedDict()

    def take(self, record: AuditRecord) -> Alert | None:
        rule = self._rule
        if not self._fits(record):
            return None
        caller = record.peer if rule.by == "peer" else record.token_subject
        times = self._seen.setdefault(caller, deque(maxlen=rule.count))
        self._seen.move_to_end(caller)
        if len(self._seen) > CALLERS_MAX:
            self._seen.popitem(last=False)
        times.append(record.time_us)
        if len(times) < rule.count or record.time_us - times[0] > rule.within_s * 1_000_000:
            return None
        times.clear()
        return Alert(rule.name, caller, rule.count, record.time_us, record.method, record.data_subject, record.trace_id)

    def _fits(self, record: AuditRecord) -> bool:
        rule = self._rule
        if rule.decision and (rule.decision == "denied") is not (record.decision is Decision.DENIED):
            return False
        if rule.methods and not record.method.startswith(rule.methods):
            return False
        if rule.reasons and not record.reason.startswith(rule.reasons):
            return False
        if rule.personal and not (record.method in self._personal and record.result == "OK"):
            return False
        if rule.callers and record.peer.rpartition("/")[2] not in rule.callers:
            return False
        return rule.outside_hours is None or self._is_outside(rule.outside_hours, record.time_us)

    def _is_outside(self, hours: tuple[int, int], time_us: int) -> bool:
        first, end = hours
        hour = (_EPOCH + timedelta(microseconds=time_us)).astimezone(self._zone).hour
        return not (first <= hour < end if first <= end else hour >= first or hour < end)
