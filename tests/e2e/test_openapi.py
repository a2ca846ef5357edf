"""The OpenAPI document that the edge gateway serves, and the running mesh held against it by schemathesis."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deploy.local.mesh import LocalMesh
from mesh.contract import load, openapi
from tests.e2e.command import run
from tests.e2e.public import bearer, public_client, register, root_certificate
from tests.e2e.signin import create_account, enrol, sign_in

pytestmark = pytest.mark.asyncio(loop_scope="session")
# Tried with each of them besides what the edges of its schema give.
EXAMPLES = 2
# A quarter of a minute where nothing else runs.
WITHIN_S = 240.0
CHECKS = (
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
)


async def test_the_gateway_serves_what_the_contract_says(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        answer = await client.send("GET", openapi.PATH)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert json.loads(answer.body) == openapi.document(load(), mesh.urls["edge_gateway"])
        refused = await client.send("DELETE", openapi.PATH)
        assert (refused.status, refused.headers["allow"]) == (405, "GET")


@pytest.mark.timeout(300)
async def test_whatever_is_asked_is_answered_as_the_document_says_and_never_by_a_5xx(
    mesh: LocalMesh, tmp_path: Path
) -> None:
    async with public_client(mesh) as client:
        shop = (await bearer(mesh, client, ""))["authorization"]
        member_id = await register(mesh, client, "openapi-member-1", 51)
        await create_account(mesh, client, member_id, "joan@example.org")
        second = await enrol(mesh, client, member_id)
        member = f"Bearer {await sign_in(client, 'joan@example.org', 'members.read members.reveal', second=second)}"
    asked = openapi.document(load(), mesh.urls["edge_gateway"])["paths"].values()
    humans = [one["operationId"] for path in asked for one in path.values() if one["x-isthmus-policy"]["human"]]
    assert humans
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(
        f'headers = {{ Authorization = "{shop}" }}\n'
        f"[[operations]]\ninclude-operation-id = {json.dumps(humans)}\n"
        f'headers = {{ Authorization = "{member}" }}\n'
    )
    report = tmp_path / "asked.har"
    status, output, errors = await run(
        *("schemathesis", "--config-file", str(settings), "run", mesh.urls["edge_gateway"] + openapi.PATH),
        *("--tls-verify", str(root_certificate(mesh)), "--seed", "1", "--warnings", "off", "--continue-on-failure"),
        *("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--checks", ",".join(CHECKS)),
        *("--report", "har", "--report-har-path", str(report)),
        deadline_s=WITHIN_S,
        folder=tmp_path,
    )
    assert status == 0, output.decode()[-6000:] + errors.decode()[-2000:]
    answers = Counter(told(entry) for entry in json.loads(report.read_text())["log"]["entries"])
    # Nobody answered in time: on a machine that has too much to do that is what there is to say, now and then.
    late = answers.pop(503, 0) + answers.pop(504, 0)
    assert late < answers.total() / 50
    assert not [each for each in answers if each >= 500]
    # Not by refusing everything, nor by everybody's being a stranger.
    assert answers.total() > 1000
    assert answers[200] > 20
    assert answers[401] < answers.total() / 10


def told(entry: dict[str, Any]) -> int:
    return int(entry["response"]["status"])
