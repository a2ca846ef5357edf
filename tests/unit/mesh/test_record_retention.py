"""How long audit records are kept is stated by class: half a year at least, no shorter than for what harms less."""

import pytest
from google.protobuf import descriptor, descriptor_pb2, descriptor_pool
from isthmus.policy.v1 import policy_pb2

from mesh.contract import load
from mesh.contract.model import DataClass
from mesh.contract.reader import ContractError, read_record_retention


def classes(*days: int) -> descriptor.EnumDescriptor:
    file = descriptor_pb2.FileDescriptorProto(name="trial.proto", syntax="proto3", package="trial")
    enum = file.enum_type.add(name="Class")
    enum.value.add(name="NONE", number=0)
    for number, kept in enumerate(days, 1):
        value = enum.value.add(name=DataClass(number).name, number=number)
        value.options.Extensions[policy_pb2.retention].record_days = kept
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindEnumTypeByName("trial.Class")


@pytest.mark.parametrize("days", [(183,), (366, 365), (0, 366), (366, 0, 3650)])
def test_a_time_that_is_too_short_is_refused(days: tuple[int, ...]) -> None:
    with pytest.raises(ContractError, match=DataClass(len(days)).name):
        read_record_retention(classes(*days))


def test_what_may_be_stated_is_read() -> None:
    assert read_record_retention(classes(184, 366, 0)) == {
        DataClass.PUBLIC: 184,
        DataClass.INTERNAL: 366,
        DataClass.PERSONAL: 0,
    }


def test_the_contract_states_it_for_every_class() -> None:
    assert set(load().recorded_days) == set(DataClass)
