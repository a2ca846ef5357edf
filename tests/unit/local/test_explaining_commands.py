"""`isthmus explain` and `isthmus policy`: their exit status is the verdict, for scripts that go by it alone."""

import json
from functools import partial
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from isthmus.policy.v1 import policy_pb2

from mesh.contract.lint import DESCRIPTORS, lint
from tests.unit.local.test_isthmus_command import isthmus


@pytest.fixture(autouse=True)
def no_mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))


def test_a_call_that_may_pass_is_explained_with_status_0() -> None:
    done = isthmus("explain", "--from", "payments", "--to", "orders/GetOrder", "--json")
    assert done.exit_code == 0, done.stderr
    hops = json.loads(done.stdout)
    assert {"at", "rule", "allowed", "why"} == hops[0].keys()
    assert [hop["rule"] for hop in hops if hop["at"] == "orders"][:2] == ["health", "callers"]
    assert {"at": "orders", "rule": "health", "allowed": None, "why": "no mesh runs here"} in hops
    shown = isthmus("explain", "--from", "payments", "--to", "orders/GetOrder")
    assert shown.exit_code == 0
    assert "payments is among them" in shown.stdout


def test_a_call_that_a_hop_refuses_is_explained_up_to_it_with_status_1() -> None:
    done = isthmus("explain", "--from", "members", "--to", "orders/GetOrder", "--json")
    assert done.exit_code == 1
    *passed, last = json.loads(done.stdout)
    assert (last["at"], last["rule"], last["allowed"]) == ("orders", "callers", False)
    assert all(hop["allowed"] is not False for hop in passed)
    shown = isthmus("explain", "--from", "members", "--to", "orders/GetOrder")
    assert shown.exit_code == 1
    assert "members is not among them" in shown.stdout


@pytest.mark.parametrize(
    ("caller", "method", "said"),
    [
        ("nobody", "orders/GetOrder", "Name one of them, or outside"),
        ("payments", "NoSuchMethod", "0 methods are named NoSuchMethod"),
    ],
)
def test_a_name_that_fits_nothing_is_one_line_with_status_2(caller: str, method: str, said: str) -> None:
    done = isthmus("explain", "--from", caller, "--to", method, "--json")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert said in done.stderr


@pytest.mark.parametrize(("principal", "status"), [("payments", 0), ("members", 1), ("nobody", 2)])
def test_a_policy_is_explained_to_a_principal(principal: str, status: int) -> None:
    done = isthmus("policy", "explain", "Orders.GetOrder", "--as", principal, "--json")
    assert done.exit_code == status, done.stderr
    if status < 2:
        verdicts = {rule["rule"]: rule["verdict"] for rule in json.loads(done.stdout)["rules"]}
        assert verdicts["callers"] == ("refuses: not named" if status else "allows")


@pytest.mark.parametrize(
    ("method", "principal", "status", "expected"),
    [
        ("Orders.GetOrder", "member", 0, {"callers": "allows: core-gateway", "scopes": "allows: may hold them"}),
        ("Orders.GetOrder", "client:storefront", 0, {"scopes": "allows: may hold them"}),
        ("Catalog.PutCampaign", "member", 1, {"scopes": "refuses: may not hold catalog.write"}),
        ("Members.ExportMember", "client:storefront", 1, {"human": "refuses: a client's token is nobody's in person"}),
        ("Members.ExportMember", "member", 0, {"human": "allows", "step_up": "depends on the sign-in"}),
        ("Ads.Decide", "member", 0, {"callers": "allows: edge-gateway"}),
        ("Keys.PublishGatewayKey", "member", 1, {"callers": "refuses: no HTTP binding leads here from outside"}),
    ],
)
def test_a_policy_is_explained_to_who_comes_from_outside(
    method: str, principal: str, status: int, expected: dict[str, str]
) -> None:
    done = isthmus("policy", "explain", method, "--as", principal, "--json")
    assert done.exit_code == status, done.stdout + done.stderr
    verdicts = {rule["rule"]: rule["verdict"] for rule in json.loads(done.stdout)["rules"]}
    assert expected.items() <= verdicts.items()


@pytest.mark.parametrize(("principal", "said"), [("client:nobody", "storefront"), ("outside", "client:NAME")])
def test_who_is_nobody_in_particular_is_told_whom_to_name(principal: str, said: str) -> None:
    done = isthmus("policy", "explain", "Orders.GetOrder", "--as", principal)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_refusal_is_shown_in_the_table_too() -> None:
    done = isthmus("policy", "explain", "Orders.GetOrder", "--as", "members")
    assert done.exit_code == 1
    assert "refuses: not named" in done.stdout


def test_a_contract_with_a_finding_fails_the_lint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    method = next(
        method
        for file in content.file
        for service in file.service
        for method in service.method
        if f"{file.package}.{service.name}.{method.name}" == "isthmus.orders.v1.Orders.GetOrder"
    )
    method.options.Extensions[policy_pb2.method].ClearField("callers")
    broken = tmp_path / "broken.binpb"
    broken.write_bytes(content.SerializeToString())
    monkeypatch.setattr("mesh.contract.lint.lint", partial(lint, broken))

    done = isthmus("policy", "lint", "--json")
    assert done.exit_code == 1
    (finding,) = json.loads(done.stdout)
    assert finding["rule"] == "the policy leaves out callers"
    assert finding["file"] == "isthmus/orders/v1/orders.proto"
    shown = isthmus("policy", "lint")
    assert shown.exit_code == 1
    assert "the policy leaves out callers" in shown.stdout
    assert shown.stdout.endswith("1 findings\n")
