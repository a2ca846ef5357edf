"""Each rule of the lint, shown on the smallest contract that breaks it."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.protos import SOURCES
from mesh.contract.lint import Finding, lint

HEAD = """syntax = "proto3";
package isthmus.trial.v1;
import "google/api/annotations.proto";
import "isthmus/policy/v1/policy.proto";
"""
POLICY = """callers: ["edge-gateway"] deadline_ms: 100 audit: AUDIT_LEVEL_NONE rate_class: RATE_CLASS_CROWD
 answer: DATA_CLASS_INTERNAL """


def service(policy: str, zone: str = "ZONE_PRIVATE", route: str = "") -> str:
    return f"""
service Trial {{
  option (isthmus.policy.v1.service) = {{zone: {zone} workload: "trial"}};
  rpc Try(TryRequest) returns (TryResponse) {{
    {f"option (isthmus.policy.v1.method) = {{{policy}}};" if policy else ""}
    {route}
  }}
}}
"""


def message(name: str, body: str = "", default: str = "INTERNAL") -> str:
    return f"""
message {name} {{
  option (isthmus.policy.v1.message).fields = DATA_CLASS_{default};
  {body}
}}
"""


PLAIN = message("TryRequest") + message("TryResponse")
PHONE = "string phone = 1 [(isthmus.policy.v1.field).class = DATA_CLASS_PERSONAL];"
EVENT = """option (isthmus.policy.v1.event) = {
    topic: "t" direction: DIRECTION_OUTWARD durability: DURABILITY_DURABLE key_field: "phone" partitions: 1
    retention_days: 30};"""
WITHIN = """option (isthmus.policy.v1.event) = {{
    topic: "t" direction: DIRECTION_WITHIN durability: DURABILITY_DURABLE key_field: "phone"
    retention_days: {days}}};"""


@pytest.fixture
def findings(tmp_path: Path, request: pytest.FixtureRequest) -> list[Finding]:
    source = tmp_path / "isthmus" / "trial" / "v1" / "trial.proto"
    source.parent.mkdir(parents=True)
    source.write_text(HEAD + request.param)
    out = tmp_path / "trial.binpb"
    from grpc_tools import protoc  # type: ignore[import-untyped]

    googleapis = Path(protoc.__file__).parent.parent
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}", f"-I{SOURCES}", f"-I{googleapis}"]
    described = [f"--descriptor_set_out={out}", "--include_imports", "--include_source_info", str(source)]
    subprocess.run([*command, *described], check=True, timeout=60)
    return lint(out)


BROKEN = {
    "a service needs a zone and a workload": service(POLICY).replace('workload: "trial"', "") + PLAIN,
    "a method without a policy cannot start": service("") + PLAIN,
    "the policy leaves out callers": service(POLICY.replace('callers: ["edge-gateway"]', "")) + PLAIN,
    "no workload is called nobody": service(POLICY.replace("edge-gateway", "nobody")) + PLAIN,
    "a method that is not idempotent has retries": service(POLICY + "retry: {attempts: 3}") + PLAIN,
    "retry.attempts counts all of 2 to 5": service(POLICY + "idempotent: true retry: {attempts: 9}") + PLAIN,
    "the answer holds a PERSONAL field and is declared INTERNAL": service(POLICY)
    + message("TryRequest")
    + message("TryResponse", PHONE),
    "subject_field member_id is none of its fields": service(POLICY + 'subject_field: "member_id"') + PLAIN,
    "location_field url is none of its fields": service(POLICY + 'location_field: "url"', zone="ZONE_PUBLIC") + PLAIN,
    "rate_key slot is none of its fields": service(POLICY + 'rate_key: "slot"', zone="ZONE_PUBLIC") + PLAIN,
    "a method with a rate_key is of a rate class without a limit for keys": service(
        POLICY.replace("CROWD", "BULK") + 'rate_key: "slot"', zone="ZONE_PUBLIC"
    )
    + message("TryRequest", "string slot = 1;")
    + message("TryResponse"),
    "a method outside of the public zone answers with a redirect, which no gateway makes": service(
        POLICY + 'location_field: "url"'
    )
    + message("TryRequest")
    + message("TryResponse", "string url = 1;"),
    "a private method with an HTTP route needs no token": service(
        POLICY, route='option (google.api.http) = {get: "/trial"};'
    )
    + PLAIN,
    "a method of each zone has an HTTP route or scopes, and no gateway leads to it or decides on tokens": service(
        POLICY, zone="ZONE_EACH", route='option (google.api.http) = {get: "/trial"};'
    )
    + PLAIN,
    "a field without a data class cannot cross a zone": service(POLICY)
    + message("TryResponse")
    + "message TryRequest { string anything = 1; }",
    "a message of the public zone holds a PERSONAL field": service(POLICY, zone="ZONE_EACH")
    + message("TryRequest", "Inner inner = 1;")
    + message("Inner", PHONE)
    + message("TryResponse"),
    "an event that crosses the zones holds a PERSONAL field": message("Happened", EVENT + PHONE),
    "an event needs topic, direction, durability and partitions": message(
        "Happened", 'option (isthmus.policy.v1.event) = {topic: "t" key_field: "id" retention_days: 30}; string id = 1;'
    ),
    "the event is kept for 1096 days, and holds a PERSONAL field, which is kept for 1095": message(
        "Happened", WITHIN.format(days=1096) + PHONE
    ),
    "the event is kept for ever, and holds a INTERNAL field, which is kept for 3650": message(
        "Happened", WITHIN.format(days=0) + "string phone = 1;"
    ),
    "an event holds isthmus.trial.v1.Kept, which stays in its region": message(
        "Happened", WITHIN.format(days=30) + "string phone = 1; Kept kept = 2;"
    )
    + """message Kept {
  option (isthmus.policy.v1.message) = {fields: DATA_CLASS_INTERNAL resident: true};
  string id = 1;
}""",
    "key_field 'id' is none of its fields": message("Happened", EVENT.replace('"phone"', '"id"') + "string other = 1;"),
}


@pytest.mark.parametrize(("findings", "rule"), [(body, rule) for rule, body in BROKEN.items()], indirect=["findings"])
def test_the_rule_is_named_with_file_line_and_remedy(findings: list[Finding], rule: str) -> None:
    assert [finding.rule for finding in findings] == [rule]
    (finding,) = findings
    assert finding.file == "isthmus/trial/v1/trial.proto"
    assert finding.line > 4
    assert finding.remedy


@pytest.mark.parametrize("findings", [service(POLICY) + PLAIN], indirect=True)
def test_a_complete_contract_has_no_findings(findings: list[Finding]) -> None:
    assert findings == []


@pytest.mark.parametrize(
    "findings",
    [
        service(POLICY)
        + PLAIN
        + """
service Behind {
  option (isthmus.policy.v1.service) = {zone: ZONE_PRIVATE workload: "behind"};
  rpc Try(TryRequest) returns (TryResponse) {
    option (isthmus.policy.v1.method) = {"""
        + POLICY.replace("edge-gateway", "trial").replace("100", "200")
        + "};}}"
    ],
    indirect=True,
)
def test_a_deadline_longer_than_its_callers_is_named(findings: list[Finding]) -> None:
    (finding,) = findings
    assert finding.rule == "the deadline of 200 ms is longer than any of its caller trial's"
