"""No process starts on half a policy: what is not stated is named when the contract is read."""

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from mesh.contract import Contract, reader
from mesh.contract.model import DataClass
from mesh.contract.reader import ContractError
from tests.unit.mesh.test_contract_lint import FILE, PLAIN, POLICY, described, message, service

EVENT = """option (isthmus.policy.v1.event) = {
    topic: "t" direction: DIRECTION_OUTWARD durability: DURABILITY_DURABLE key_field: "id" partitions: 1};
  string id = 1;"""
HAPPENED = "event isthmus.trial.v1.Happened: "
TRY = "method isthmus.trial.v1.Trial.Try: "

INCOMPLETE = {
    "service isthmus.trial.v1.Trial: state its zone and workload": service(POLICY).replace('workload: "trial"', "")
    + PLAIN,
    f"{TRY}state its policy": service("") + PLAIN,
    **{
        f"{TRY}its policy leaves out {setting.split(':')[0]}": service(POLICY.replace(setting, "")) + PLAIN
        for setting in (
            'callers: ["edge-gateway"]',
            "deadline_ms: 100",
            "audit: AUDIT_LEVEL_NONE",
            "rate_class: RATE_CLASS_CROWD",
            "answer: DATA_CLASS_INTERNAL",
        )
    },
    "field isthmus.trial.v1.Nested.Inner.anything: state its class": message(
        "Nested", "message Inner { string anything = 1; }"
    ),
    f"{HAPPENED}key_field 'other' is none": message("Happened", EVENT.replace('"id"', '"other"')),
}
NEEDED = ['topic: "t"', "direction: DIRECTION_OUTWARD", "durability: DURABILITY_DURABLE", "partitions: 1"]


def load(directory: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> Contract:
    """The contract as a process reads it, of one file with this body."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(described(directory, body).read_bytes()).file:
        pool.Add(file)
    monkeypatch.setattr(reader, "files", lambda: iter([pool.FindFileByName(FILE)]))
    # Behind its cache.
    return reader.load.__wrapped__()


@pytest.mark.parametrize(("named", "body"), INCOMPLETE.items())
def test_what_is_left_out_is_named_when_the_contract_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, body: str
) -> None:
    with pytest.raises(ContractError) as refused:
        load(tmp_path, body, monkeypatch)
    assert str(refused.value).startswith(named)


@pytest.mark.parametrize("setting", NEEDED)
def test_an_event_without_a_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    with pytest.raises(ContractError) as refused:
        load(tmp_path, message("Happened", EVENT.replace(setting, "")), monkeypatch)
    assert str(refused.value) == f"{HAPPENED}state its topic, direction, durability and partitions"


def test_what_is_stated_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = load(tmp_path, service(POLICY) + PLAIN + message("Happened", EVENT), monkeypatch)
    (method,) = contract.methods.values()
    assert (method.callers, method.deadline_ms, method.workload) == (frozenset({"edge-gateway"}), 100, "trial")
    assert contract.events["isthmus.trial.v1.Happened"].topic == "t"
    assert contract.fields("isthmus.trial.v1.Happened")["id"].data_class is DataClass.INTERNAL
