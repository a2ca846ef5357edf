"""What operators are told of each data plane."""

from mesh.control.conversation import Ack, Nack
from mesh.control.snapshot import CLUSTER, LISTENER
from mesh.control.status import REASON_CHARACTERS_MAX, Planes, Told


def test_a_data_plane_is_known_by_what_it_was_sent_and_said() -> None:
    planes = Planes(now=lambda: 1.0)
    plane = planes.connected("orders", "orders-1", "grpc")
    plane.sent(CLUSTER, "v1")
    plane.heard(Ack(CLUSTER, "v1"))
    plane.sent(LISTENER, "v2")
    plane.heard(Nack(LISTENER, "v2", "x" * 9999))
    (found,) = planes.after("", "", 10)
    assert found.types[CLUSTER] == Told("v1", "v1")
    assert found.types[LISTENER].rejected == "v2"
    assert len(found.types[LISTENER].reason) == REASON_CHARACTERS_MAX


def test_the_longest_known_are_forgotten_first() -> None:
    planes = Planes()
    for number in range(3000):
        planes.connected("orders", f"orders-{number}", "grpc")
    nodes = {plane.node for plane in planes.after("", "", 9999)}
    assert len(nodes) == 2048
    assert "orders-2999" in nodes
    assert "orders-0" not in nodes


def test_who_is_connected_is_remembered_however_many_come_and_go() -> None:
    planes = Planes()
    planes.connected("members", "members-1", "grpc")
    for number in range(3000):
        planes.connected("orders", f"orders-{number}", "grpc").gone()
    assert [plane.node for plane in planes.after("", "", 1)] == ["members-1"]


def test_all_streams_of_a_node_are_one_data_plane() -> None:
    planes = Planes()
    first, second = (planes.connected("orders", "orders-1", "grpc") for _ in range(2))
    first.sent(CLUSTER, "v2")
    first.heard(Nack(CLUSTER, "v2", "no"))
    first.gone()
    (plane,) = planes.after("", "", 10)
    assert plane.connected
    assert plane.types[CLUSTER].rejected == "v2"
    second.gone()
    assert not plane.connected
    # What an earlier life was told is no news of this one.
    assert planes.connected("orders", "orders-1", "grpc").types[CLUSTER].rejected == ""
