"""A small view of each zone, and a data plane that talks to a conversation as Envoy does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.contract import load
from mesh.control.registry import Endpoint
from mesh.control.resources.view import View


def endpoint(workload: str, listen: str, number: int, zone: str) -> Endpoint:
    return Endpoint(workload, listen, f"{workload}-{number}", zone, "127.0.0.1", 20000 + number)


PUBLIC = (
    endpoint("edge", "http", 1, "public"),
    endpoint("edge", "http", 2, "public"),
    endpoint("edge", "grpc", 1, "public"),
    endpoint("edge-gateway", "https", 50, "public"),
    endpoint("core-gateway", "https", 51, "private"),
)
PRIVATE = (
    endpoint("orders", "grpc", 1, "private"),
    endpoint("orders", "grpc", 2, "private"),
    endpoint("oauth", "http", 3, "private"),
    endpoint("core-gateway", "https", 51, "private"),
)


@pytest.fixture
def view() -> Callable[[str], View]:
    def make(zone: str) -> View:
        known = PUBLIC if zone == "public" else PRIVATE
        return View("isthmus.internal", zone, load(), known, "https://issuer.test", "isthmus-core", Path("/run"))

    return make
