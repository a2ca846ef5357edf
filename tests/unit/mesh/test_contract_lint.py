"""Each rule of the lint, shown on the smallest contract that breaks it."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.protos import SOURCES
from mesh.contract.lint import lint

FILE = "isthmus/trial/v1/trial.proto"
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


def described(directory: Path, body: str) -> Path:
    """A descriptor set of a contract with this body, written below the directory."""
    source = directory / FILE
    source.parent.mkdir(parents=True)
    source.write_text(HEAD + body)
    out = directory / "trial.binpb"
    from grpc_tools import protoc  # type: ignore[import-untyped]

    googleapis = Path(protoc.__file__).parent.parent
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{directory}", f"-I{SOURCES}", f"-I{googleapis}"]
    written = [f"--descriptor_set_out={out}", "--include_imports", "--include_source_info", str(source)]
    subprocess.run([*command, *written], check=True, timeout=60)
    return out


class Broken(NamedTuple):
    """A contract that breaks one rule, where its text breaks it (from the first such place on), and what mends it."""

    body: str
    at: str
    remedy: str

    @property
    def line(self) -> int:
        text = HEAD + self.body
        return text[: text.index(self.at)].count("\n") + 1


def bound(rule: str) -> str:
    """The service of the public zone, with such a google.api.http rule."""
    return service(POLICY, "ZONE_PUBLIC", f"option (google.api.http) = {{{rule}}};")


RPC = "rpc Try("
STATED = "set {} in (isthmus.policy.v1.method)"
PRIVATE = "keep the field in the private zone, or lower its class if that is the truth"

BROKEN = {
    "a service needs a zone and a workload": Broken(
        service(POLICY).replace('workload: "trial"', "") + PLAIN,
        "service Trial",
        "state both in option (isthmus.policy.v1.service)",
    ),
    "a method without a policy cannot start": Broken(service("") + PLAIN, RPC, "add option (isthmus.policy.v1.method)"),
    "the policy leaves out callers": Broken(
        service(POLICY.replace('callers: ["edge-gateway"]', "")) + PLAIN, RPC, STATED.format("callers")
    ),
    "the policy leaves out deadline_ms": Broken(
        service(POLICY.replace("deadline_ms: 100", "")) + PLAIN, RPC, STATED.format("deadline_ms")
    ),
    "the policy leaves out audit": Broken(
        service(POLICY.replace("audit: AUDIT_LEVEL_NONE", "")) + PLAIN, RPC, STATED.format("audit")
    ),
    "the policy leaves out rate_class": Broken(
        service(POLICY.replace("rate_class: RATE_CLASS_CROWD", "")) + PLAIN, RPC, STATED.format("rate_class")
    ),
    "the policy leaves out answer": Broken(
        service(POLICY.replace("answer: DATA_CLASS_INTERNAL", "")) + PLAIN, RPC, STATED.format("answer")
    ),
    "no workload is called nobody": Broken(
        service(POLICY.replace("edge-gateway", "nobody")) + PLAIN,
        RPC,
        "name one of bridge-inbound, bridge-outbound, core-gateway, edge-gateway, operator, trial",
    ),
    "a method that is not idempotent has retries": Broken(
        service(POLICY + "retry: {attempts: 3}") + PLAIN, RPC, "remove retry, or make it idempotent by a key"
    ),
    "retry.attempts counts all of 2 to 5": Broken(
        service(POLICY + "idempotent: true retry: {attempts: 9}") + PLAIN, RPC, "set it within"
    ),
    "the answer holds a PERSONAL field and is declared INTERNAL": Broken(
        service(POLICY) + message("TryRequest") + message("TryResponse", PHONE),
        RPC,
        "declare answer: DATA_CLASS_PERSONAL",
    ),
    "the answer holds nothing above INTERNAL, is declared PERSONAL": Broken(
        service(POLICY.replace("answer: DATA_CLASS_INTERNAL", "answer: DATA_CLASS_PERSONAL"))
        + message("TryRequest")
        + message("TryResponse", "string id = 1;"),
        RPC,
        "declare answer: DATA_CLASS_INTERNAL, or state the class of its fields that is the truth",
    ),
    "subject_field member_id is none of its fields": Broken(
        service(POLICY + 'subject_field: "member_id"') + PLAIN, RPC, "name a field of TryRequest"
    ),
    "location_field url is none of its fields": Broken(
        service(POLICY + 'location_field: "url"', zone="ZONE_PUBLIC") + PLAIN, RPC, "name a field of TryResponse"
    ),
    "rate_key slot is none of its fields": Broken(
        service(POLICY + 'rate_key: "slot"', zone="ZONE_PUBLIC") + PLAIN, RPC, "name a field of TryRequest"
    ),
    "a method with a rate_key is of a rate class without a limit for keys": Broken(
        service(POLICY.replace("CROWD", "BULK") + 'rate_key: "slot"', zone="ZONE_PUBLIC")
        + message("TryRequest", "string slot = 1;")
        + message("TryResponse"),
        RPC,
        "state key in the rates of its class",
    ),
    "a method outside of the public zone answers with a redirect, which no gateway makes": Broken(
        service(POLICY + 'location_field: "url"') + message("TryRequest") + message("TryResponse", "string url = 1;"),
        RPC,
        "take location_field away",
    ),
    "a private method with an HTTP route needs no token": Broken(
        service(POLICY, route='option (google.api.http) = {get: "/trial"};') + PLAIN,
        RPC,
        "name its scopes, or take the route away",
    ),
    "a method of each zone has an HTTP route or scopes, and no gateway leads to it or decides on tokens": Broken(
        service(POLICY, zone="ZONE_EACH", route='option (google.api.http) = {get: "/trial"};') + PLAIN,
        RPC,
        "take them away, or give the service one zone",
    ),
    "a field without a data class cannot cross a zone": Broken(
        service(POLICY) + message("TryResponse") + "message TryRequest {\n  string anything = 1;\n}",
        "string anything",
        "state it in (isthmus.policy.v1.field), or for all fields in (isthmus.policy.v1.message)",
    ),
    "a message of the public zone holds a PERSONAL field": Broken(
        service(POLICY, zone="ZONE_EACH")
        + message("TryRequest", "Inner inner = 1;")
        + message("Inner", PHONE)
        + message("TryResponse"),
        "string phone",
        PRIVATE,
    ),
    "an event that crosses the zones holds a PERSONAL field": Broken(
        message("Happened", EVENT + PHONE), "string phone", PRIVATE
    ),
    "an event needs topic, direction, durability and partitions": Broken(
        message(
            "Happened",
            'option (isthmus.policy.v1.event) = {topic: "t" key_field: "id" retention_days: 30}; string id = 1;',
        ),
        "message Happened",
        "state them in option (isthmus.policy.v1.event)",
    ),
    "the event is kept for 1096 days, and holds a PERSONAL field, which is kept for 1095": Broken(
        message("Happened", WITHIN.format(days=1096) + PHONE), "message Happened", "set retention_days to 1095 or fewer"
    ),
    "the event is kept for ever, and holds a INTERNAL field, which is kept for 3650": Broken(
        message("Happened", WITHIN.format(days=0) + "string phone = 1;"),
        "message Happened",
        "set retention_days to 3650 or fewer",
    ),
    "an event holds isthmus.trial.v1.Kept, which stays in its region": Broken(
        message("Happened", WITHIN.format(days=30) + "string phone = 1; Kept kept = 2;")
        + """message Kept {
  option (isthmus.policy.v1.message) = {fields: DATA_CLASS_INTERNAL resident: true};
  string id = 1;
}""",
        "message Happened",
        "carry its id instead",
    ),
    "/v1/{id=**}: only variables of one segment, as {name}, can be routed": Broken(
        bound('get: "/v1/{id=**}"') + message("TryRequest", "string id = 1;") + message("TryResponse"),
        RPC,
        "write {field} for one segment",
    ),
    "/v1/{item.id} names item.id, which is no field of the request": Broken(
        bound('get: "/v1/{item.id}"') + message("TryRequest", "TryResponse item = 1;") + message("TryResponse"),
        RPC,
        "name a field of it",
    ),
    "a binding has no HTTP method that the gateways know": Broken(
        bound('get: "/v1/a" additional_bindings {custom: {kind: "FETCH" path: "/v1/a"}}') + PLAIN,
        RPC,
        "take get, put, post, delete or patch",
    ),
    "GET /v1/{name}:try leads to isthmus.trial.v1.Trial.Try already": Broken(
        bound('get: "/v1/{id}:try"')
        + bound('get: "/v1/{name}:try"').replace("Trial ", "Retrial ").replace("rpc Try(", "rpc Retry(")
        + message("TryRequest", "string id = 1; string name = 2;")
        + message("TryResponse"),
        "rpc Retry(",
        "give one of the two another path",
    ),
    "key_field 'id' is none of its fields": Broken(
        message("Happened", EVENT.replace('"phone"', '"id"') + "string other = 1;"),
        "message Happened",
        "name a field of Happened",
    ),
}


@pytest.mark.parametrize(("rule", "broken"), BROKEN.items())
def test_the_rule_is_named_with_file_line_and_remedy(tmp_path: Path, rule: str, broken: Broken) -> None:
    (finding,) = lint(described(tmp_path, broken.body))
    assert (finding.rule, finding.remedy) == (rule, broken.remedy)
    assert (finding.file, finding.line) == (FILE, broken.line)


@pytest.mark.parametrize(
    "body",
    [
        service(POLICY) + PLAIN,
        # Several bindings, of which one names a field within a field.
        bound('get: "/v1/{item.id}" additional_bindings {post: "/v1/{item.id}"}')
        + message("TryRequest", "Item item = 1;")
        + message("Item", "string id = 1;")
        + message("TryResponse"),
        # Without fields, an answer is of the class that its message states.
        service(POLICY.replace("INTERNAL", "PUBLIC"))
        + message("TryRequest")
        + message("TryResponse", default="PUBLIC"),
    ],
)
def test_a_complete_contract_has_no_findings(tmp_path: Path, body: str) -> None:
    assert lint(described(tmp_path, body)) == []


def test_a_deadline_longer_than_its_callers_is_named(tmp_path: Path) -> None:
    behind = """
service Behind {
  option (isthmus.policy.v1.service) = {zone: ZONE_PRIVATE workload: "behind"};
  rpc Follow(TryRequest) returns (TryResponse) {
    option (isthmus.policy.v1.method) = {"""
    policy = POLICY.replace("edge-gateway", "trial").replace("100", "200")
    broken = Broken(service(POLICY) + PLAIN + behind + policy + "};}}", "rpc Follow(", "make it 100 ms or less")
    (finding,) = lint(described(tmp_path, broken.body))
    assert finding.rule == "the deadline of 200 ms is longer than any of its caller trial's"
    assert (finding.line, finding.remedy) == (broken.line, broken.remedy)
