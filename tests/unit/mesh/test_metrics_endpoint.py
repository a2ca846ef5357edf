"""Who may read the figures of a process, who may only ask whether it is well, and who can keep it from answering."""

import contextlib
import http.client
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.settings import HEALTH_PATH
from mesh.telemetry import _CONNECTIONS_MAX, MetricsEndpoint
from mesh.tls import Identity
from tests.ports import free_port
from tests.unit.mesh.conftest import Zone

METRICS = "/metrics"
# As long as a starved machine may need.
WITHIN_S = 30.0


@pytest.fixture
def private(tmp_path: Path) -> Zone:
    return Zone(tmp_path, "private")


@contextlib.asynccontextmanager
async def serving(zone: Zone) -> AsyncIterator[int]:
    port = free_port()
    endpoint = MetricsEndpoint(f"127.0.0.1:{port}", Identity(zone.issue("orders")))
    await endpoint.start()
    try:
        yield port
    finally:
        await endpoint.stop(WITHIN_S)


def status(zone: Zone, port: int, path: str, workload: str) -> int:
    context = Identity(zone.issue(workload)).ssl_context(server=False)
    context.check_hostname = False
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=WITHIN_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


async def eventually_answers(zone: Zone, port: int) -> None:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if status(zone, port, HEALTH_PATH, "control-private") == 200:
                return
    raise AssertionError("no more answers")


@pytest.mark.parametrize(
    ("workload", "path", "expected"),
    [
        ("prometheus", METRICS, 200),
        ("operator", METRICS, 200),
        ("orders", METRICS, 200),
        ("payments", METRICS, 403),
        ("control-private", METRICS, 403),
        ("control-private", HEALTH_PATH, 200),
        ("operator", HEALTH_PATH, 200),
        ("payments", HEALTH_PATH, 403),
    ],
)
async def test_who_is_answered(private: Zone, workload: str, path: str, expected: int) -> None:
    async with serving(private) as port:
        assert status(private, port, path, workload) == expected


async def test_who_connects_and_says_nothing_keeps_nobody_waiting(private: Zone) -> None:
    async with serving(private) as port:
        with socket.create_connection(("127.0.0.1", port), WITHIN_S):
            assert status(private, port, HEALTH_PATH, "control-private") == 200


async def test_more_connections_than_it_has_threads_for_are_closed_and_it_lives_on(private: Zone) -> None:
    async with serving(private) as port, contextlib.AsyncExitStack() as silent:
        taken = [
            silent.enter_context(socket.create_connection(("127.0.0.1", port), WITHIN_S))
            for _ in range(_CONNECTIONS_MAX)
        ]
        with socket.create_connection(("127.0.0.1", port), WITHIN_S) as one_more:
            assert one_more.recv(1) == b""
        taken[0].close()
        await eventually_answers(private, port)
