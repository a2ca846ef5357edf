"""Ports for what tests start: none that the kernel gives to clients, and none that another worker gives out."""

import contextlib
import itertools
import os
import random
import socket
from typing import Final

# One by one up to BASES, in blocks from there on; from 32768 on the kernel gives them to clients.
FIRST: Final = 10_000
BASES: Final = 20_000
END: Final = 32_000
# More than a mesh with two edge nodes needs.
PORTS: Final = 64
_WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_WORKERS: Final = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

_OWN: Final = range(FIRST + _WORKER, BASES, _WORKERS)
# From a place of chance: two runs at once on one machine must not look at the same ports at the same time.
_next: Final = itertools.count(random.randrange(len(_OWN)))


def free_port() -> int:
    """A port that nobody has, and that no test of this run was given lately."""
    for place in itertools.islice(_next, len(_OWN)):
        port = _OWN[place % len(_OWN)]
        if _free(port):
            return port
    raise AssertionError("no free port")


def free_port_base(ports: int = PORTS) -> int:
    """The first of `ports` neighbouring ports that nobody has."""
    bases = list(range(BASES + _WORKER * ports, END, _WORKERS * ports))
    for base in random.sample(bases, len(bases)):
        if all(_free(port) for port in range(base, base + ports)):
            return base
    raise AssertionError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return True
    return False
