"""How long a token is still of use that should be of none: at the last of the places that check it, the worst round.

Asked directly are both replicas that decide, with the token itself, and both that serve, with what was made of it.
Counted from the answer to a revocation, and from the answer to a refresh token that somebody uses again, which ends its
family.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

import grpc
from isthmus.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from chaos.bench.decisions import Question, inner_token, sent_by
from chaos.bench.report import Result, asked
from chaos.bench.tools import BenchError
from chaos.load.client import Answer, PublicClient
from chaos.load.member import FORM, App, authorize
from chaos.load.token import PatientToken
from deploy.local.mesh import LocalMesh
from mesh.client.assertion import AssertionKey
from mesh.client.proof import ProofKey

CLIENT: Final = "storefront"
DECIDING: Final = ("gateway-1", "gateway-2")
ROUNDS: Final = 3
REACHES_S_MAX: Final = 5.0
# So long who shows a used refresh token gets the answer of who was first.
GRACE_S: Final = 10.0
AT_ONCE: Final = 50
# Nobody waits longer for a place that goes on taking it.
GIVEN_UP_S: Final = 30.0
PAUSE_S: Final = 0.02
LOGIN, PASSWORD = "revocations@example.org", "correct horse battery staple"

Open = Callable[[LocalMesh, str], contextlib.AbstractAsyncContextManager[grpc.aio.Channel]]
# Whether the place still takes the token.
Taken = Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class _Service:
    """What is called with a token, and the processes that serve it."""

    path: str
    scope: str
    nodes: tuple[str, ...]
    call: Callable[[grpc.aio.Channel, Any], Awaitable[Any]]


async def _campaigns(channel: grpc.aio.Channel, metadata: Any) -> Any:
    stub: catalog_pb2_grpc.CatalogAsyncStub = catalog_pb2_grpc.CatalogStub(channel)
    return await stub.ListCampaigns(catalog_pb2.ListCampaignsRequest(), metadata=metadata, timeout=5.0)


async def _order(channel: grpc.aio.Channel, metadata: Any) -> Any:
    stub: orders_pb2_grpc.OrdersAsyncStub = orders_pb2_grpc.OrdersStub(channel)
    return await stub.GetOrder(orders_pb2.GetOrderRequest(order_id="0" * 32), metadata=metadata, timeout=5.0)


_CATALOG: Final = _Service(
    "/isthmus.catalog.v1.Catalog/ListCampaigns", "catalog.read", ("catalog-1", "catalog-2"), _campaigns
)
_ORDERS: Final = _Service("/isthmus.orders.v1.Orders/GetOrder", "orders.read", ("orders-1", "orders-2"), _order)


async def measure(mesh: LocalMesh, open_: Open) -> list[Result]:
    """Raises BenchError."""
    root = mesh.home.root / "ca" / "public" / "root.pem"
    async with PublicClient(mesh.urls["edge_gateway"], root, AT_ONCE) as client:
        key = mesh.home.run("oauth") / "clients" / f"{CLIENT}.pem"
        revoked = max([await _revoked(mesh, client, key, open_) for _ in range(ROUNDS)])
        await _create_account(client, key)
        families = [await _replayed(mesh, client, open_) for _ in range(ROUNDS)]
    together, replayed = (max(each) for each in zip(*families, strict=True))
    figures = (
        ("a revocation reaches every place that checks", revoked, REACHES_S_MAX),
        (f"{AT_ONCE} refreshes of one token at once", together, GRACE_S),
        ("a replayed refresh token's family has ended everywhere", replayed, REACHES_S_MAX),
    )
    return [asked(name, value, "s", wanted, lambda s, most: most / s) for name, value, wanted in figures]


async def _revoked(mesh: LocalMesh, client: PublicClient, key: Path, open_: Open) -> float:
    """Seconds after a revocation."""
    token = PatientToken(client, CLIENT, key, _CATALOG.scope)
    text = await token.text()
    async with _places(mesh, _CATALOG, text, token.proofs, open_) as places:
        form = AssertionKey(CLIENT, key).form(client.url) | {"token": text}
        answer = await client.send("POST", "/oauth/revoke", urlencode(form).encode(), FORM)
        _require(answer, 200)
        return await _until_all_refuse(places)


async def _create_account(client: PublicClient, key: Path) -> None:
    account = {"member_id": str(uuid4()), "login": LOGIN, "password": PASSWORD}
    shop = PatientToken(client, CLIENT, key, "accounts.write")
    json_ = {"content-type": "application/json"}
    _require(await shop.send("POST", "/v1/accounts", json.dumps(account).encode(), json_), 200)


async def _replayed(mesh: LocalMesh, client: PublicClient, open_: Open) -> tuple[float, float]:
    """Seconds that so many refreshes took together, and after the replay of a refresh token."""
    app = App()
    verifier, code = await authorize(client, LOGIN, PASSWORD, _ORDERS.scope)
    first = _tokens(await app.redeem(client, code, verifier))["refresh_token"]
    started = time.monotonic()
    answers = await asyncio.gather(*(app.refresh(client, first) for _ in range(AT_ONCE)))
    together = time.monotonic() - started
    successors = {_tokens(answer)["refresh_token"] for answer in answers}
    if len(successors) != 1:
        raise BenchError(f"{AT_ONCE} refreshes of one token gave {len(successors)} successors")
    # Its successor is used: from now on nobody honest shows the first.
    current = _tokens(await app.refresh(client, successors.pop()))
    async with _places(mesh, _ORDERS, current["access_token"], app.key, open_) as places:
        _require(await app.refresh(client, first), 400)
        return together, await _until_all_refuse(places)


def _tokens(answer: Answer) -> dict[str, str]:
    _require(answer, 200)
    found: dict[str, str] = json.loads(answer.body)
    return found


def _require(answer: Answer, status: int) -> None:
    if answer.status != status:
        raise BenchError(f"the authorization server answered {answer.status} instead of {status}: {answer.body!r}")


async def _until_all_refuse(places: list[Taken]) -> float:
    started = time.monotonic()
    await asyncio.gather(*(_until_refused(taken, started) for taken in places))
    return time.monotonic() - started


async def _until_refused(taken: Taken, started: float) -> None:
    while await taken():
        if time.monotonic() - started > GIVEN_UP_S:
            raise BenchError(f"a token that has ended is still taken after {GIVEN_UP_S:.0f} s")
        await asyncio.sleep(PAUSE_S)


@contextlib.asynccontextmanager
async def _places(
    mesh: LocalMesh, service: _Service, token: str, key: ProofKey, open_: Open
) -> AsyncIterator[list[Taken]]:
    """All that take the token at first."""
    edge = sent_by(f"spiffe://{mesh.settings.trust_domain}/public/edge-gateway")
    question = Question(service.path, token, edge, mesh.urls["edge_gateway"], key)
    async with contextlib.AsyncExitStack() as stack:
        deciding = [await stack.enter_async_context(open_(mesh, name)) for name in DECIDING]
        serving = [await stack.enter_async_context(open_(mesh, name)) for name in service.nodes]
        inner = (("authorization", inner_token(await question.ask(deciding[0]))),)

        async def serves(channel: grpc.aio.Channel) -> bool:
            try:
                await service.call(channel, inner)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND):
                    raise BenchError(f"a call failed otherwise: {error.details()}") from error
                return error.code() is grpc.StatusCode.NOT_FOUND
            return True

        places: list[Taken] = [
            *(lambda channel=each: question.allowed(channel) for each in deciding),
            *(lambda channel=each: serves(channel) for each in serving),
        ]
        if not all(await asyncio.gather(*(taken() for taken in places))):
            raise BenchError("a good token was refused")
        yield places
