"""The zones' own networks: each reaches the other over one cable, which can be cut one way, and mended."""

import subprocess
from collections.abc import Iterator
from signal import SIGKILL

import pytest

from deploy.local import networks
from deploy.local.networks import Networks, address, entrance, namespace
from mesh.spiffe import ZONES
from tests.ports import free_port_base

pytestmark = pytest.mark.skipif(not networks.possible(), reason="takes root, iproute2 and util-linux")
PORT = 4000
WITHIN_S = 30.0
# What says each line that it hears, and one word of greeting on standard output when it hears.
SERVER = f"""
import socket, sys
with socket.create_server((sys.argv[1], {PORT})) as server:
    print("listens", flush=True)
    while True:
        connection, _ = server.accept()
        connection.sendall(b"hello")
        connection.close()
"""
CLIENT = f"""
import socket, sys
with socket.create_connection((sys.argv[1], {PORT}), float(sys.argv[2])) as connection:
    sys.exit(connection.recv(5) != b"hello")
"""


@pytest.fixture
def base() -> Iterator[int]:
    """Of two networks, in the private of which somebody answers."""
    base = free_port_base()
    made = Networks(base)
    made.up()
    there = entrance(namespace(base, "private"))
    command = (*there, "python3", "-c", SERVER, address(base, "private"))
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"listens\n"
        yield base
    finally:
        server.send_signal(SIGKILL)
        server.communicate()
        made.down()


def answers(base: int, zone: str = "", within_s: float = WITHIN_S) -> bool:
    """Whether the private zone answers who asks from this zone, or from this machine."""
    place = entrance(namespace(base, zone)) if zone else ()
    asked = ("python3", "-c", CLIENT, address(base, "private"), str(within_s))
    return subprocess.run((*place, *asked), stderr=subprocess.DEVNULL, timeout=WITHIN_S + 10).returncode == 0


@pytest.mark.parametrize("silenced", [["public"], ["private"], ["public", "private"]])
def test_a_cut_cable_lets_nothing_pass_and_who_looks_on_still_sees_both(base: int, silenced: list[str]) -> None:
    made = Networks(base)
    assert answers(base, "public")
    made.cut(silenced)
    assert not answers(base, "public", within_s=1.0)
    assert answers(base)
    made.mend()
    assert answers(base, "public")


def test_what_a_killed_launcher_has_left_is_taken_away_by_the_next(base: int) -> None:
    Networks(base).cut(["public"])
    Networks(base).up()
    # In the new one nobody listens, and that is said at once.
    assert not answers(base)
    Networks(base).down()
    listed = subprocess.run(("ip", "netns", "list"), capture_output=True, text=True, check=True).stdout
    assert str(base) not in listed


def test_two_meshes_have_different_addresses() -> None:
    every = [address(base, zone) for base in (1024, 1025, 65000) for zone in ZONES]
    assert len(set(every)) == len(every)
