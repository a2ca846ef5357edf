"""What a report, a rule and a collector are told is what the records say."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mesh.contract import load
from security.audit import syslog
from security.audit.alerts import RULES, AlertRules, AlertRulesMalformed, Rule, read_rules
from security.audit.record import AuditRecord, Decision
from security.audit.report import BURST_DENIALS, BURST_S, report
from security.identity.authority import Authority

GATEWAY = "spiffe://isthmus.internal/private/core-gateway"
READ = "/isthmus.members.v1.Members/GetMember"
SECOND = 1_000_000


def record(number: int = 0, **changes: object) -> AuditRecord:
    base = AuditRecord(
        record_id=f"{number:032x}",
        time_us=1_700_000_000 * SECOND + number * SECOND,
        peer=GATEWAY,
        token_subject="member-1",
        token_client="shop",
        method=READ,
        data_subject="member-1",
        decision=Decision.ALLOWED,
        result="OK",
        reason="",
        trace_id="f" * 32,
        workload="members",
        node="members-1",
    )
    return replace(base, **changes)


DENIED: dict[str, Any] = {"decision": Decision.DENIED, "result": "PERMISSION_DENIED", "reason": "NOT_YOUR_RECORD"}


def test_a_report_says_who_saw_whose_data() -> None:
    found = report(
        [
            record(1),
            record(2),
            record(3, token_subject="member-2"),
            # No data was seen: refused, failed, or nothing personal in the answer.
            record(4, token_subject="member-3", **DENIED),
            record(5, token_subject="member-4", result="NOT_FOUND", reason="MEMBER_UNKNOWN"),
            record(6, token_subject="member-5", method="/isthmus.orders.v1.Orders/GetOrder"),
        ],
        load(),
    )
    assert [(sight.who, sight.about, sight.calls) for sight in found.sights] == [
        ("member-1", "member-1", 2),
        ("member-2", "member-1", 1),
    ]
    assert found.records == 6


def test_a_report_names_bursts_of_denials_and_not_the_odd_one() -> None:
    burst = [record(number, **DENIED) for number in range(BURST_DENIALS)]
    far = [record(number * (BURST_S + 1), token_subject="slow", **DENIED) for number in range(BURST_DENIALS)]
    found = report(sorted([*burst, *far], key=lambda each: each.time_us), load())
    assert [(each.who, each.denials, each.reasons) for each in found.bursts] == [
        ("member-1", BURST_DENIALS, {"NOT_YOUR_RECORD"})
    ]


def test_a_report_reviews_rights_used_unused_and_not_granted() -> None:
    found = report([record(1), record(2, peer=GATEWAY.replace("core-gateway", "orders"), **DENIED)], load())
    rights = {(right.workload, right.method): right for right in found.rights}
    assert (rights["core-gateway", READ].granted, rights["core-gateway", READ].allowed) == (True, 1)
    assert (rights["orders", READ].granted, rights["orders", READ].denied) == (False, 1)
    unused = rights["operator", "/isthmus.members.v1.Members/CountMembers"]
    assert (unused.granted, unused.allowed, unused.denied) == (True, 0, 0)


def test_a_rule_alerts_once_for_each_count_within_its_time() -> None:
    rules = AlertRules([Rule("bursts", decision="denied", count=3, within_s=10)], load())

    def alerts(*records: AuditRecord) -> int:
        return sum(len(list(rules.take(each))) for each in records)

    assert alerts(*(record(number) for number in range(9))) == 0
    assert alerts(record(10, **DENIED), record(11, **DENIED), record(30, **DENIED), record(31, **DENIED)) == 0
    assert alerts(record(32, **DENIED), record(33, **DENIED)) == 1
    # Another caller counts for itself.
    assert alerts(record(33, peer="spiffe://isthmus.internal/private/orders", **DENIED)) == 0


def test_a_rule_for_hours_and_one_for_personal_data() -> None:
    # 22:13 UTC.
    late = AlertRules([Rule("late", outside_hours=(6, 22))], load())
    assert [alert.rule for alert in late.take(record())] == ["late"]
    early = AlertRules([Rule("there it is morning", outside_hours=(6, 22), timezone="Asia/Shanghai")], load())
    assert not list(early.take(record()))
    many = AlertRules([Rule("many", personal=True, by="token_subject", count=2)], load())
    assert not list(many.take(record(1)))
    assert not list(many.take(record(2, **DENIED)))
    (alert,) = many.take(record(3))
    assert (alert.caller, alert.records, alert.data_subject) == ("member-1", 2, "member-1")


def test_a_failed_verification_and_break_glass_alert_by_what_was_recorded() -> None:
    rules = AlertRules(read_rules(RULES), load())
    noted = {
        "method": "/isthmus.audit.v1.AuditLog/RecordActivity",
        "peer": "spiffe://isthmus.internal/private/operator",
    }

    def alerts(reason: str) -> list[str]:
        return [alert.rule for alert in rules.take(record(0, reason=reason, **noted))]

    assert alerts("LOG_VERIFIED 12 leaves") == []
    assert alerts("LOG_REFUTED cut") == ["the log is not what was signed"]
    assert alerts("GLASS_BROKEN payments") == ["break-glass"]


def test_the_rules_that_come_with_it_are_rules() -> None:
    methods = load().methods
    for rule in read_rules(RULES):
        assert all(any(path.startswith(begins) for path in methods) for begins in rule.methods), rule


@pytest.mark.parametrize(
    "text",
    ["", "{}", '[{"name": "x", "colour": 1}]', '[{"name": "x", "count": 0}]', '[{"name": "x", "timezone": "Mars"}]'],
)
def test_malformed_rules_stop_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "rules.json").write_text(text)
    with pytest.raises(AlertRulesMalformed):
        read_rules(tmp_path / "rules.json")


def test_a_syslog_message_is_one_of_rfc_5424() -> None:
    text = syslog.message(record(0, **DENIED, data_subject='a"b]c\\d'), 8, 7)
    head = r"<108>1 2023-11-14T22:13:20\.000000Z members-1 members - GetMember "
    assert re.match(head + r"\[isthmus@32473 ", text), text
    assert r'data_subject="a\"b\]c\\d"' in text
    assert 'leaf="7"' in text
    assert text.endswith("]")
    assert syslog.message(record(), 8, 7).startswith("<110>1 ")


async def test_messages_reach_a_collector_over_tls_with_their_length(tmp_path: Path) -> None:
    authority = Authority.open_or_create(tmp_path / "ca", "isthmus.internal", "private")
    leaf = authority.issue("audit", timedelta(hours=1))
    (tmp_path / "leaf.pem").write_bytes(leaf.chain_pem)
    (tmp_path / "key.pem").write_bytes(leaf.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "leaf.pem", tmp_path / "key.pem")
    received = bytearray()
    ended = asyncio.Event()

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(-1))
        writer.close()
        ended.set()

    async def messages() -> AsyncIterator[str]:
        yield "<110>1 first"
        yield "<110>1 zweite ä"

    server = await asyncio.start_server(collect, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await syslog.send(messages(), "localhost", port, tmp_path / "ca" / "root.pem") == 2
        async with asyncio.timeout(10):
            await ended.wait()
    assert received == b"12 <110>1 first" + b"16 <110>1 zweite \xc3\xa4"
    with pytest.raises(ssl.SSLError):
        async with await asyncio.start_server(collect, "127.0.0.1", 0, ssl=context) as other:
            await syslog.send(messages(), "localhost", other.sockets[0].getsockname()[1])


def test_the_rules_file_is_json() -> None:
    assert json.loads(RULES.read_text())
