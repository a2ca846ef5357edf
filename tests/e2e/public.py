"""How the tests reach a running mesh: as the public, and as the shop's own system."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from chaos.demo.screen import Screen
from chaos.load.client import Answer, PublicClient
from chaos.load.storefront import CLIENT_ID
from chaos.load.token import PatientToken
from deploy.local.mesh import LocalMesh
from mesh.client.proof import ProofKey

JSON = {"content-type": "application/json"}
PROBLEM = "application/problem+json"
# What no answer to the public may hold: code, addresses and names from inside.
INSIDE = re.compile(
    rb"Traceback|File \"|\.py\b|127\.0\.0\.1:|isthmus\.internal|spiffe:|sqlalchemy|psycopg|postgres|granian|msgspec"
    rb"|grpc\.|edge-\d|orders-\d|payments-\d|members-\d|upstream|core-gateway",
    re.IGNORECASE,
)


def root_certificate(mesh: LocalMesh) -> Path:
    return mesh.home.root / "ca" / "public" / "root.pem"


# The keys that tokens of these tests are bound to, by token.
HELD: dict[str, ProofKey] = {}


class Holder(PublicClient):
    """Brings a proof along with each token whose key is held, as the app does that it was given to."""

    async def send(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        token = (headers or {}).get("authorization", "").removeprefix("DPoP ")
        key = HELD.get(token) if token else None
        if key is None:
            return await super().send(method, target, body, headers)
        bare = super().send

        def send(proof: Mapping[str, str]) -> Awaitable[Answer]:
            return bare(method, target, body, {**(headers or {}), **proof})

        return await key.send(method, self.url + target.partition("?")[0], 401, send, token)


@asynccontextmanager
async def public_client(mesh: LocalMesh, connections: int = 16) -> AsyncIterator[Holder]:
    async with Holder(mesh.urls["edge_gateway"], root_certificate(mesh), connections) as client:
        yield client


async def bearer(mesh: LocalMesh, client: PublicClient, scope: str) -> dict[str, str]:
    """Headers of a JSON request with a token of the shop's own system, of which a Holder has the key."""
    key = mesh.home.run("oauth") / "clients" / f"{CLIENT_ID}.pem"
    token = PatientToken(client, CLIENT_ID, key, scope)
    text = await token.text()
    HELD[text] = token.proofs
    return JSON | {"authorization": f"DPoP {text}"}


async def register(mesh: LocalMesh, client: PublicClient, key: str, number: int) -> str:
    """Register a member under made-up data; returns the id."""
    person = {"idempotency_key": key, "phone": f"+86137{number:08}", "name": "Ada Example", "address": "1 Test Road"}
    headers = await bearer(mesh, client, "members.write")
    answer = await client.send("POST", "/v1/members", json.dumps(person).encode(), headers)
    assert answer.status == 200, answer.body
    return str(json.loads(answer.body)["member_id"])


def problem(answer: Answer, status: int) -> dict[str, Any]:
    """The problem document (RFC 9457) of a refusal that tells nothing from inside."""
    assert answer.status == status, (answer.status, answer.body)
    assert answer.headers["content-type"].partition(";")[0] == PROBLEM, (answer.headers, answer.body)
    found = INSIDE.search(answer.body)
    assert found is None, f"{found!r} in {answer.body!r}"
    document: dict[str, Any] = json.loads(answer.body)
    assert document["status"] == status
    assert {"type", "title", "detail"} <= document.keys()
    return document


def quiet() -> Screen:
    return Screen(Console(quiet=True))
