"""How long a revoked token is still of use: at each place that checks it, counted from the answer to its revocation.

Asked directly are both replicas that decide, with the token itself, and both that serve, with what was made of it. The
figure is of the last of them, the worst of the rounds.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final
from urllib.parse import urlencode

import grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from isthmus.catalog.v1 import catalog_pb2, catalog_pb2_grpc

from chaos.bench.report import Result, asked
from chaos.bench.tools import BenchError
from chaos.load.client import PublicClient
from chaos.load.token import PatientToken
from deploy.local.mesh import LocalMesh
from mesh.client.assertion import AssertionKey

CLIENT: Final = "storefront"
SCOPE: Final = "catalog.read"
DECIDING: Final = ("gateway-1", "gateway-2")
SERVING: Final = ("catalog-1", "catalog-2")
ROUNDS: Final = 3
REACHES_S_MAX: Final = 5.0
# Nobody waits longer for a place that goes on taking it.
GIVEN_UP_S: Final = 30.0
PAUSE_S: Final = 0.02
FORM: Final = {"content-type": "application/x-www-form-urlencoded"}

Open = Callable[[LocalMesh, str], contextlib.AbstractAsyncContextManager[grpc.aio.Channel]]
# Whether the place still takes the token.
Taken = Callable[[], Awaitable[bool]]


async def measure(mesh: LocalMesh, check: external_auth_pb2.CheckRequest, open_: Open) -> Result:
    """check: a call that is allowed, but for its token. Raises BenchError."""
    took = max([await _round(mesh, check, open_) for _ in range(ROUNDS)])
    return asked("a revocation reaches every place that checks", took, "s", REACHES_S_MAX, lambda s, most: most / s)


async def _round(mesh: LocalMesh, check: external_auth_pb2.CheckRequest, open_: Open) -> float:
    key = mesh.home.run("oauth") / "clients" / f"{CLIENT}.pem"
    root = mesh.home.root / "ca" / "public" / "root.pem"
    async with PublicClient(mesh.urls["edge_gateway"], root, 2) as client:
        authorization = (await PatientToken(client, CLIENT, key, SCOPE).authorization())["authorization"]
        wanted = external_auth_pb2.CheckRequest()
        wanted.CopyFrom(check)
        wanted.attributes.request.http.headers["authorization"] = authorization
        async with _places(mesh, wanted, open_) as places:
            if not all(await asyncio.gather(*(taken() for taken in places))):
                raise BenchError("a good token was refused")
            form = AssertionKey(CLIENT, key).form(mesh.urls["edge_gateway"])
            form["token"] = authorization.removeprefix("Bearer ")
            answer = await client.send("POST", "/oauth/revoke", urlencode(form).encode(), FORM)
            if answer.status != 200:
                raise BenchError(f"the token was not revoked: {answer.status} {answer.body!r}")
            started = time.monotonic()
            await asyncio.gather(*(_until_refused(taken, started) for taken in places))
            return time.monotonic() - started


async def _until_refused(taken: Taken, started: float) -> None:
    while await taken():
        if time.monotonic() - started > GIVEN_UP_S:
            raise BenchError(f"a revoked token is still taken after {GIVEN_UP_S:.0f} s")
        await asyncio.sleep(PAUSE_S)


@contextlib.asynccontextmanager
async def _places(mesh: LocalMesh, check: external_auth_pb2.CheckRequest, open_: Open) -> AsyncIterator[list[Taken]]:
    async with contextlib.AsyncExitStack() as stack:
        deciding = [await stack.enter_async_context(open_(mesh, name)) for name in DECIDING]
        serving = [await stack.enter_async_context(open_(mesh, name)) for name in SERVING]
        [header] = (await external_auth_pb2_grpc.AuthorizationStub(deciding[0]).Check(check)).ok_response.headers
        inner = (("authorization", header.header.value),)

        async def decides(channel: grpc.aio.Channel) -> bool:
            answer = await external_auth_pb2_grpc.AuthorizationStub(channel).Check(check, timeout=5.0)
            return bool(answer.status.code == 0)

        async def serves(channel: grpc.aio.Channel) -> bool:
            stub: catalog_pb2_grpc.CatalogAsyncStub = catalog_pb2_grpc.CatalogStub(channel)
            try:
                await stub.ListCampaigns(catalog_pb2.ListCampaignsRequest(), metadata=inner, timeout=5.0)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                    raise BenchError(f"a call failed otherwise: {error.details()}") from error
                return False
            return True

        yield [
            *(lambda channel=each: decides(channel) for each in deciding),
            *(lambda channel=each: serves(channel) for each in serving),
        ]
