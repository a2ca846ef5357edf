"""A scope, a deadline and a caller changed in a .proto, and nothing else: gateway, server and table follow."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from deploy import protos
from deploy.local import configuration
from mesh.errors import from_rpc_error
from mesh.spiffe import TRUST_DOMAIN, SpiffeId
from mesh.tls import Identity
from security.tokens import inner
from tests.integration.control.world import World, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEY = ec.generate_private_key(ec.SECP256R1())
ORDERS = "isthmus/orders/v1/orders.proto"


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Code generated from protos in which GetOrder is for another scope, for two callers more, and is to be quicker."""
    sources, target = tmp_path_factory.mktemp("protos"), tmp_path_factory.mktemp("generated")
    shutil.copytree(protos.SOURCES, sources, dirs_exist_ok=True)
    text = (sources / ORDERS).read_text()
    before, _, rest = text.partition("rpc GetOrder(")
    policy, end, after = rest.partition("\n  }\n")
    for old, new in (
        ('callers: ["core-gateway", "payments"]', 'callers: ["core-gateway", "payments", "members", "operator"]'),
        ('scopes: ["orders.read"]', 'scopes: ["orders.audit"]'),
        ("deadline_ms: 3000", "deadline_ms: 1234"),
    ):
        assert old in policy
        policy = policy.replace(old, new)
    (sources / ORDERS).write_text(f"{before}rpc GetOrder({policy}{end}{after}")
    protos.generate(target, sources)
    return target


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    world = World(tmp_path_factory.mktemp("change"))
    world.add("control-private", "control-private", "private", "ads")
    world.add("orders-1", "orders", "private", "grpc")
    world.add("gateway-1", "gateway", "private", "grpc")
    world.add("core-gateway", "core-gateway", "private", "https", "metrics")
    for caller in ("payments", "members", "operator"):
        world.identities.issue("private", caller)
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key())) | {"kid": "k1", "alg": "ES256", "use": "sig"}
    (world.home.root / "jwk.json").write_text(json.dumps(jwk))
    (world.home.root / "jwks.json").write_text(json.dumps({"keys": [jwk]}))
    world.publish()
    try:
        yield world
    finally:
        await world.stop()


async def restart(world: World, path: str) -> None:
    for name in ("orders-1", "gateway-1", "control-private"):
        if name in world.running:
            await world.kill(name)
    await world.start("control-private", "mesh.control", PYTHONPATH=path)
    await world.start("orders-1", "tests.integration.control.guarded", PYTHONPATH=path)
    await world.start("gateway-1", PYTHONPATH=path)
    await world.serving("control-private", "ads")
    for name in ("orders-1", "gateway-1"):
        await world.serving(name, "grpc")


async def ask(world: World, caller: str, scope: str) -> Any:
    """GetOrder straight at the service: (status, milliseconds that the handler had left)."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": inner.issuer(TRUST_DOMAIN),
        "aud": "orders",
        "sub": "shop",
        "client_id": "shop",
        "jti": "1",
        "origin": "0",
        "act": inner.act((str(SpiffeId("private", caller)),)),
    }
    claims |= {"iat": now, "origin_iat": now, "exp": now + inner.LIFE_S, "scope": scope}
    token = jwt.encode(claims, KEY, "ES256", {"kid": "k1", "typ": inner.TYPE})
    credentials = Identity(world.home.identity(caller)).channel_credentials()
    options = (
        ("grpc.ssl_target_name_override", "orders.private.isthmus.internal"),
        ("grpc.use_local_subchannel_pool", 1),
    )
    async with grpc.aio.secure_channel(world.address("orders-1", "grpc"), credentials, options) as channel:
        call: Any = orders_pb2_grpc.OrdersStub(channel).GetOrder
        try:
            answer = await call(
                orders_pb2.GetOrderRequest(order_id="a"),
                timeout=10,
                metadata=(("authorization", f"Bearer {token}"),),
            )
        except grpc.aio.AioRpcError as error:
            return error.code(), 0
        return grpc.StatusCode.OK, answer.order.source_time_us


async def ask_gateway(world: World, scope: str) -> str:
    """GetOrder through the core gateway, by the operator with an access token of its own: why it is refused."""
    identity = Identity(world.home.identity("operator"))
    certificate = x509.load_pem_x509_certificate(identity.leaf.chain)
    thumbprint = urlsafe_b64encode(certificate.fingerprint(hashes.SHA256())).rstrip(b"=").decode()
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": "https://issuer.test",
        "aud": "isthmus-core",
        "sub": "shop",
        "client_id": "shop",
        "scope": scope,
    }
    claims |= {"iat": now, "exp": now + 60, "jti": scope, "cnf": {"x5t#S256": thumbprint}}
    token = jwt.encode(claims, KEY, "ES256", {"kid": "k1", "typ": "at+jwt"})
    options = (
        ("grpc.ssl_target_name_override", "core-gateway.private.isthmus.internal"),
        ("grpc.use_local_subchannel_pool", 1),
    )
    address = world.address("core-gateway", "https")
    async with grpc.aio.secure_channel(address, identity.channel_credentials(), options) as channel:
        call: Any = orders_pb2_grpc.OrdersStub(channel).GetOrder
        metadata = (("authorization", f"Bearer {token}"),)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(orders_pb2.GetOrderRequest(order_id="a"), timeout=10, metadata=metadata)
    said = refused.value.details() or ""
    # The gateway and its decision point say it in a problem document, a service in a rich status.
    return str(json.loads(said)["reason"]) if said.startswith("{") else from_rpc_error(refused.value).reason


async def gateway_timeout(world: World) -> str:
    """What the running core gateway says of the method's route."""
    process = world.processes["core-gateway"]
    dump = await configuration.admin(world.home, process, "config_dump?resource=dynamic_route_configs")
    routes = dump["configs"][0]["route_config"]["virtual_hosts"][0]["routes"]
    found = [each["route"]["timeout"] for each in routes if each["match"].get("path", "").endswith("/GetOrder")]
    return str(found[0])


def table(path: str) -> str:
    command = (str(Path(sys.executable).with_name("isthmus")), "policy", "table")
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=True
    )
    return next(line for line in done.stdout.splitlines() if line.startswith("| GetOrder |"))


async def test_one_edit_in_the_proto_changes_gateway_server_and_table(world: World, changed: Path) -> None:
    unchanged = world.path
    await restart(world, unchanged)
    await world.start("core-gateway")
    await world.serving("core-gateway", "https")
    assert (await ask(world, "payments", "orders.read"))[0] is grpc.StatusCode.OK
    assert (await ask(world, "payments", "orders.audit"))[0] is grpc.StatusCode.PERMISSION_DENIED
    assert (await ask(world, "members", "orders.read"))[0] is grpc.StatusCode.PERMISSION_DENIED
    assert 2000 < (await ask(world, "payments", "orders.read"))[1] <= 3000
    assert await gateway_timeout(world) == "3s"
    # Not for the operator, as long as the method does not name it.
    for scope in ("orders.read", "orders.audit"):
        assert await ask_gateway(world, scope) == "FORBIDDEN"
    row = await asyncio.to_thread(table, unchanged)
    assert "| core-gateway, payments | `orders.read` | 3000 ms |" in row

    path = f"{changed}:{unchanged}"
    await restart(world, path)
    assert (await ask(world, "payments", "orders.audit"))[0] is grpc.StatusCode.OK
    assert (await ask(world, "members", "orders.audit"))[0] is grpc.StatusCode.OK
    assert (await ask(world, "members", "orders.read"))[0] is grpc.StatusCode.PERMISSION_DENIED
    assert 500 < (await ask(world, "members", "orders.audit"))[1] <= 1234

    async def followed() -> bool:
        return await gateway_timeout(world) == "1.234s"

    await eventually(followed, f"the gateway's route follows; {world.tail('control-private')}")
    # The decision point refuses the one, and lets the other pass: the service does not know the decision point's key.

    async def decided() -> bool:
        return await ask_gateway(world, "orders.read") == "SCOPE_MISSING"

    await eventually(decided, f"the decision point follows; {world.tail('gateway-1')}")
    assert await ask_gateway(world, "orders.audit") == "TOKEN_KEY"
    row = await asyncio.to_thread(table, path)
    assert "| core-gateway, members, operator, payments | `orders.audit` | 1234 ms |" in row
