"""What every test stands on: gRPC must find its environment before it is loaded, and who runs beside whom."""

import os

import pytest
from hypothesis import settings

from mesh.environment import GRPC

os.environ.update(GRPC)
# How long one example takes says more of the machine than of the rule.
settings.register_profile("isthmus", deadline=None)
settings.load_profile("isthmus")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker runs the tests of a file, one all that use the whole mesh, one all that use the shared Kafka."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "mesh" in fixtures and item.path.parent.name == "e2e":
            group = "mesh"
        else:
            group = "kafka" if "kafka" in fixtures else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
