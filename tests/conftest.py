"""What every test stands on: gRPC must find its environment before it is loaded, and who shares what is started."""

import os

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from mesh.environment import GRPC

os.environ.update(GRPC)
# How long one example takes says more of the machine than of the rule.
settings.register_profile("isthmus", deadline=None)
settings.load_profile("isthmus")

# Folders of tests that share a whole mesh, or a Kafka.
_TOGETHER = {"tests/e2e/": "mesh", "tests/integration/bridge/": "kafka", "tests/integration/edge/": "kafka"}


class _Workers(LoadScopeScheduling):  # type: ignore[misc]
    """Gives out the tests by file; those that share what is long to start go to one worker.

    pytest-xdist's own groups do nothing with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((group for folder, group in _TOGETHER.items() if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _Workers(config, log)
