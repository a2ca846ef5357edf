"""A whole mesh with two edge nodes, started once when the first test asks for it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.local.mesh import LocalMesh
from tests.integration.conftest import free_port_base


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalMesh]:
    async with LocalMesh(tmp_path_factory.mktemp("mesh"), free_port_base(), edge_nodes=2) as mesh:
        yield mesh
