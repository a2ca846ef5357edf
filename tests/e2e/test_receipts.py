"""A receipt of content goes from the public into the warehouse, once, and is a rate there."""

import json
import time

import grpc
import pytest
from isthmus.warehouse.v1 import warehouse_pb2 as pb
from isthmus.warehouse.v1.warehouse_pb2_grpc import WarehouseStub

from deploy.local.mesh import LocalMesh
from mesh.tls import Identity
from tests.e2e.public import JSON, public_client

pytestmark = pytest.mark.asyncio(loop_scope="session")

SLUG = "end-to-end-letter"
LANDED_WITHIN_S = 60.0


async def test_what_became_of_a_letter_is_a_rate_in_the_warehouse(mesh: LocalMesh) -> None:
    steps = ["DELIVERED"] * 4 + ["OPENED"] * 2 + ["SHARED"]
    told = [
        {"slug": SLUG, "delivery_id": f"{number:032x}", "step": f"RECEIPT_STEP_{step}"}
        for step in dict.fromkeys(steps)
        for number in range(steps.count(step))
    ]
    async with public_client(mesh) as client:
        for receipt in [*told, *told]:
            answer = await client.send("POST", "/v1/receipts", json.dumps(receipt).encode(), JSON)
            assert (answer.status, json.loads(answer.body)) == (200, {})
    address = next(row.process.listen("grpc") for row in mesh.rows if row.process.workload == "warehouse")
    options = (("grpc.ssl_target_name_override", f"warehouse.private.{mesh.settings.trust_domain}"),)
    credentials = Identity(mesh.home.identity("operator")).channel_credentials()
    async with grpc.aio.secure_channel(str(address), credentials, options=options) as channel:
        ends = time.monotonic() + LANDED_WITHIN_S
        while True:
            report = await WarehouseStub(channel).ReportContent(pb.ReportContentRequest(), timeout=20)
            found = {item.slug: item for item in report.items}.get(SLUG, pb.ContentReach())
            if (found.delivered, found.opened, found.shared) == (4, 2, 1):
                break
            assert time.monotonic() < ends, "the receipts do not land"
    assert (found.open_rate, found.share_rate) == (0.5, 0.5)
