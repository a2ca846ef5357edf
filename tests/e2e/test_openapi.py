"""The OpenAPI document that the edge gateway serves, and the running mesh held against it by schemathesis."""

import asyncio
import base64
import contextlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from chaos.load.member import CALLBACK, FORM, authorize
from chaos.load.outcomes import CallFailed
from deploy.local.mesh import LocalMesh
from mesh.contract import load, openapi
from tests.e2e.command import run
from tests.e2e.public import Holder, public_client, register, root_certificate
from tests.e2e.signin import PASSWORD, create_account, enrol

pytestmark = pytest.mark.asyncio(loop_scope="session")
# Tried with each of them besides what the edges of its schema give.
EXAMPLES = 2
# A quarter of a minute where nothing else runs.
WITHIN_S = 240.0
# All that was answered by 503 or 504 gets another answer within so long.
AGAIN_WITHIN_S = 60.0
OF_THE_CONNECTION = frozenset({"connection", "content-length", "host", "transfer-encoding"})
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
        # It can prove no key for each request, so it is a sandbox.
        shop = await given(mesh, client, {"grant_type": "client_credentials"})
        member_id = await register(mesh, client, "openapi-member-1", 51)
        await create_account(mesh, client, member_id, "joan@example.org")
        second = await enrol(mesh, client, member_id)
        scope = "members.read members.reveal"
        verifier, code = await authorize(client, "joan@example.org", PASSWORD, scope, "sandbox", second=second)
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": verifier}
        member = await given(mesh, client, form)
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
        *("--report", "har", "--report-har-path", str(report), "--report-preserve-bytes", "--output-sanitize", "false"),
        deadline_s=WITHIN_S,
        folder=tmp_path,
    )
    assert status == 0, output.decode()[-6000:] + errors.decode()[-2000:]
    entries = json.loads(report.read_text())["log"]["entries"]
    async with public_client(mesh) as client:
        # On a machine with too much to do nobody may have answered in time. It was told to ask again, so it is asked.
        ends = time.monotonic() + AGAIN_WITHIN_S
        answers = Counter([await answered(client, entry, ends) for entry in entries])
    assert not [each for each in answers if each >= 500], answers
    # Not by refusing everything, nor by everybody's being a stranger.
    assert answers.total() > 1000
    assert answers[200] > 20
    assert answers[401] < answers.total() / 10


async def given(mesh: LocalMesh, client: Holder, form: dict[str, str]) -> str:
    """What shows a token that the sandbox gets."""
    secret = (mesh.home.run("oauth") / "clients" / "sandbox.secret").read_text()
    sent = urlencode(form | {"client_id": "sandbox", "client_secret": secret}).encode()
    answer = await client.send("POST", "/oauth/token", sent, FORM)
    assert answer.status == 200, answer.body
    return f"Bearer {json.loads(answer.body)['access_token']}"


async def answered(client: Holder, entry: dict[str, Any], ends: float) -> int:
    """The status of an answer, of the last one where the same had to be asked again."""
    status, asked = int(entry["response"]["status"]), entry["request"]
    headers = {
        each["name"]: each["value"] for each in asked["headers"] if each["name"].lower() not in OF_THE_CONNECTION
    }
    body = base64.b64decode(asked["postData"]["text"]) if asked.get("postData") else None
    while status in (503, 504) and time.monotonic() < ends:
        await asyncio.sleep(1.0)
        with contextlib.suppress(CallFailed):
            status = (await client.send(asked["method"], asked["url"], body, headers)).status
    return status
