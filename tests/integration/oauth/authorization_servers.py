"""Authorization servers as processes of their own, called as the zone's gateway calls them."""

import http.client
import itertools
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc

from deploy.local.migrate import create_database
from mesh.call import Claims
from mesh.channel import Channels
from mesh.clock import SystemClock
from mesh.contract import load
from mesh.database.migrate import Owner, migrate
from mesh.spiffe import TRUST_DOMAIN, SpiffeId
from mesh.tls import Identity
from security import audit
from security.gateway.minting import Mint
from security.identity.agent import Agent
from security.identity.authority import Authority
from security.oauth import main as oauth_main
from tests.integration.room import own
from tests.ports import free_port

ISSUER = "https://localhost:18400"
START_S_MAX = 90.0
_addresses = itertools.count(1)


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Deployment:
    home: Path
    url: str
    issuer: str = ISSUER
    # ISTHMUS_*, besides those of every server here.
    settings: Mapping[str, str] = field(default_factory=dict)
    http_ports: list[int] = field(default_factory=list)
    grpc_ports: list[int] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    # Where the outside identity providers will be, if a test starts them.
    provider_port: int = field(default_factory=free_port)

    def identity(self, process: str) -> Path:
        return self.home / "run" / process / "identity" / "live"

    def tls(self, process: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.home / "ca" / "private" / "root.pem"))
        live = self.identity(process).resolve()
        context.load_cert_chain(live / "svid.pem", live / "key.pem")
        return context

    def call(
        self,
        method: str,
        path: str,
        *,
        form: Mapping[str, str] | str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        replica: int = 0,
        peer: str = "core-gateway",
    ) -> Reply:
        """One request, as the gateway sends it on; each from another address, unless `headers` say which."""
        body = urlencode(form) if isinstance(form, Mapping) else form
        sent = {"x-forwarded-for": f"2001:db8::{next(_addresses):x}, 127.0.0.1"} | dict(headers or {})
        if form is not None:
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.http_ports[replica], context=self.tls(peer), timeout=15
        )
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            found: dict[str, str] = {}
            for name, value in response.getheaders():
                # Several cookies, one on each line.
                found[name.lower()] = "\n".join(filter(None, (found.get(name.lower()), value)))
            return Reply(response.status, found, response.read())
        finally:
            connection.close()

    @property
    def secret(self) -> str:
        return (self.home / "run" / "oauth" / "clients" / "sandbox.secret").read_text()

    def token(self, scope: str = "", replica: int = 0) -> Reply:
        form = {"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": self.secret}
        return self.call("POST", "/oauth/token", form=form | ({"scope": scope} if scope else {}), replica=replica)

    async def inner(self, scope: str) -> tuple[tuple[str, str], ...]:
        """What the core gateway sends along when `storefront` calls with this scope: an inner token for oauth."""
        channels = self.channels("gateway")

        async def publish(jwk: str) -> None:
            stub = oauth_pb2_grpc.KeysStub(channels.direct(self.grpc_address(), OAUTH))
            await stub.PublishGatewayKey(oauth_pb2.PublishGatewayKeyRequest(jwk=jwk))

        mint = Mint(TRUST_DOMAIN, publish, SystemClock())
        try:
            with pytest.MonkeyPatch.context() as patch:
                # Every replica is told: nobody has to ask for the key first.
                patch.setattr("security.gateway.minting.LEARN_S", 0)
                await mint.start()
        finally:
            await mint.stop(0)
            await channels.close()
        now = int(time.time())
        scopes = frozenset({scope})
        claims = Claims("storefront", "storefront", scopes, now + 600, "outside", issued=now)
        chain = (str(SpiffeId("private", "core-gateway")),)
        return (("authorization", f"Bearer {mint.token(claims, 'oauth', scopes, chain, now + 600).text}"),)

    def channels(self, process: str) -> Channels:
        return Channels(Identity(self.identity(process)), load())

    def grpc_address(self, replica: int = 0) -> str:
        return f"127.0.0.1:{self.grpc_ports[replica]}"


OAUTH = SpiffeId(zone="private", workload="oauth")
# Whoever has a certificate here.
_WORKLOADS = {
    "oauth-1": "oauth",
    "oauth-2": "oauth",
    "core-gateway": "core-gateway",
    "orders-1": "orders",
    "members-1": "members",
    "gateway": "gateway",
    "sandbox-id": "sandbox-id",
}


def prepared(home: Path, url: str, **more: Any) -> Deployment:
    """A home with identities, and a database of its own at `url`. more: of the Deployment."""
    create_database(url)
    processes = [{"name": name, "zone": "private", "workload": workload} for name, workload in _WORKLOADS.items()]
    (home / "topology.json").write_text(json.dumps({"processes": processes}))
    Authority.open_or_create(home / "ca" / "public", TRUST_DOMAIN, "public")
    authority = Authority.open_or_create(home / "ca" / "private", TRUST_DOMAIN, "private")
    Agent(home, authority, timedelta(hours=1), other_root_wait_s=1.0).round()
    migrate(url, [Owner.beside(oauth_main.__file__), Owner.beside(audit.__file__)])
    return Deployment(home, url, **more)


@contextmanager
def running(deployed: Deployment, replicas: int) -> Iterator[None]:
    """So many servers, until the end of the block. Each must end by itself when it is told to."""
    try:
        for number in range(1, replicas + 1):
            start(deployed, f"oauth-{number}")
        for replica in range(replicas):
            wait_for(deployed, replica)
        yield
    finally:
        for process in deployed.processes:
            process.send_signal(signal.SIGTERM)
        for process in deployed.processes:
            try:
                assert process.wait(10) == 0
            finally:
                process.kill()


def start(deployed: Deployment, node: str) -> None:
    deployed.http_ports.append(free_port())
    deployed.grpc_ports.append(free_port())
    command, variables = (
        [sys.executable, "-m", "security.oauth"],
        environment(deployed, node, deployed.http_ports[-1], deployed.grpc_ports[-1]),
    )
    with (deployed.home / f"{node}.log").open("wb") as log:
        deployed.processes.append(subprocess.Popen(command, env=_machine() | variables, stdout=log, stderr=log))


def _machine() -> dict[str, str]:
    """What a process has from its machine: settings of a mesh that other tests run are none of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ISTHMUS_")}


def environment(deployed: Deployment, node: str, http_port: int, grpc_port: int) -> dict[str, str]:
    """What the launcher would tell a server."""
    return {
        "ISTHMUS_HOME": str(deployed.home),
        "ISTHMUS_ZONE": "private",
        "ISTHMUS_WORKLOAD": "oauth",
        "ISTHMUS_NODE": node,
        "ISTHMUS_IDENTITY_DIR": str(deployed.identity(node)),
        "ISTHMUS_DATABASE_URL": own(deployed.url, "oauth"),
        "ISTHMUS_ISSUER": deployed.issuer,
        "ISTHMUS_SANDBOX_CLIENT": "1",
        # Most tests are about other things than proofs; those that are have clients of their own.
        "ISTHMUS_BEARER_CLIENTS": '["shop-web", "isthmus-cli"]',
        "ISTHMUS_HTTP_ADDRESS": f"127.0.0.1:{http_port}",
        "ISTHMUS_GRPC_ADDRESS": f"127.0.0.1:{grpc_port}",
    } | dict(deployed.settings)


def wait_for(deployed: Deployment, replica: int) -> None:
    deadline = time.monotonic() + START_S_MAX
    while True:
        try:
            if deployed.call("GET", "/oauth/jwks.json", replica=replica).status == 200:
                return
        except OSError:
            pass
        process = deployed.processes[replica]
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail((deployed.home / f"oauth-{replica + 1}.log").read_text()[-3000:])
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
