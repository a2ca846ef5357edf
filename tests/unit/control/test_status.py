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
