"""A whole mesh with two edge nodes, started once when the first test asks for it."""

import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chaos.load.member import CALLBACK
from deploy.local.mesh import LocalMesh
from tests.e2e.collector import collecting
from tests.e2e.public import JSON, bearer, public_client
from tests.integration.oauth.outside_providers import write_settings
from tests.ports import PORTS, free_port, free_port_base

SLOT = "end-to-end"
LIVE_WITHIN_S = 60.0
# So many good answers in a row leave neither of two nodes out.
LIVE_ANSWERS = 40


# The last of the mesh's own ports, which it does not need: there a test may start identity providers.
PROVIDERS_AT = PORTS - 1
# Below the mesh's home: all traces that its processes have sent.
TRACES = "run/traces.otlp"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalMesh]:
    home, base = tmp_path_factory.mktemp("mesh"), free_port_base()
    file = write_settings(home, base + PROVIDERS_AT, home / "ca" / "private" / "root.pem")
    with pytest.MonkeyPatch.context() as patch, collecting(home / TRACES, free_port()) as endpoint:
        patch.setenv("ISTHMUS_IDENTITY_PROVIDERS", str(file))
        # For tools that can show a token and prove no key. All other clients are as they are by default.
        patch.setenv("ISTHMUS_SANDBOX_CLIENT", "1")
        patch.setenv("ISTHMUS_SANDBOX_CALLBACK", CALLBACK)
        # Every private call that comes without a trace of its own.
        patch.setenv("ISTHMUS_OTLP_ENDPOINT", endpoint)
        patch.setenv("ISTHMUS_TRACE_RATIO", "1")
        async with LocalMesh(home, base, edge_nodes=2) as mesh:
            yield mesh


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def slot(mesh: LocalMesh) -> str:
    """A slot for which every edge node has an ad."""
    creative = {
        "creative_id": "one",
        "title": "One",
        "image_url": "https://shop.example/one.jpg",
        "landing_url": "https://shop.example/one",
    }
    campaign = {"campaign_id": SLOT, "slots": [SLOT], "weight": 1, "creatives": [creative]}
    asking = json.dumps({"slot": SLOT}).encode()
    async with public_client(mesh) as client:
        headers = await bearer(mesh, client, "catalog.write")
        answer = await client.send("PUT", f"/v1/campaigns/{SLOT}", json.dumps(campaign).encode(), headers)
        assert answer.status == 200, answer.body
        in_a_row, ends = 0, time.monotonic() + LIVE_WITHIN_S
        while in_a_row < LIVE_ANSWERS:
            assert time.monotonic() < ends, "the campaign is not live"
            answer = await client.send("POST", "/v1/ads:decide", asking, JSON)
            in_a_row = in_a_row + 1 if answer.status == 200 else 0
    return SLOT
