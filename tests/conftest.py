"""What every test stands on: gRPC must find its environment before it is loaded, and who shares what is started."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from mesh.environment import GRPC

os.environ.update(GRPC)
# How long one example takes says more of the machine than of the rule.
settings.register_profile("isthmus", deadline=None)
settings.load_profile("isthmus")

_MESH = Path(__file__).parent / "e2e"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where workers share the tests, those of a group stay together: one starts the whole mesh, one starts Kafka."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    if item.path.is_relative_to(_MESH):
        return "mesh"
    return "kafka" if "kafka" in getattr(item, "fixturenames", ()) else str(item.path)
