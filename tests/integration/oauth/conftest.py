"""Two authorization servers on one PostgreSQL, and the gateway's certificate to talk to them."""

import asyncio
import json
import signal
from collections.abc import Iterator
from datetime import timedelta

import pytest
from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc

from deploy.local import postgres
from deploy.local.mesh import LocalMesh
from deploy.local.migrate import create_database
from mesh.database.migrate import Owner, migrate
from security import audit
from security.identity.agent import Agent
from security.identity.authority import Authority
from security.oauth import main as oauth_main
from tests.integration.oauth.authorization_servers import OAUTH, Deployment, start, wait_for
from tests.integration.oauth.browser import LOGIN, PASSWORD
from tests.integration.oauth.outside_providers import write_settings


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory, postgres_server: LocalMesh) -> Iterator[Deployment]:
    home = tmp_path_factory.mktemp("oauth")
    postgres_url = postgres.url(postgres_server.home, "test_oauth")
    create_database(postgres_url)
    rows = [
        ("oauth-1", "oauth"),
        ("oauth-2", "oauth"),
        ("core-gateway", "core-gateway"),
        ("orders-1", "orders"),
        ("gateway", "gateway"),
        ("sandbox-id", "sandbox-id"),
    ]
    (home / "topology.json").write_text(
        json.dumps({"processes": [{"name": name, "zone": "private", "workload": work} for name, work in rows]})
    )
    Authority.open_or_create(home / "ca" / "public", "isthmus.internal", "public")
    authority = Authority.open_or_create(home / "ca" / "private", "isthmus.internal", "private")
    Agent(home, authority, timedelta(hours=1), other_root_wait_s=1.0).round()
    migrate(postgres_url, [Owner.beside(oauth_main.__file__), Owner.beside(audit.__file__)])
    deployed = Deployment(home, postgres_url)
    write_settings(home, deployed.provider_port, home / "ca" / "private" / "root.pem")
    try:
        for number in (1, 2):
            start(deployed, f"oauth-{number}")
        for replica in (0, 1):
            wait_for(deployed, replica)
        yield deployed
    finally:
        for process in deployed.processes:
            process.send_signal(signal.SIGTERM)
        for process in deployed.processes:
            try:
                assert process.wait(10) == 0
            finally:
                process.kill()


@pytest.fixture(scope="session")
def member(deployment: Deployment) -> str:
    asyncio.run(_create_account(deployment))
    return "member-grace"


async def _create_account(deployment: Deployment) -> None:
    gateway = deployment.channels("core-gateway")
    metadata = await deployment.inner("accounts.write")
    try:
        await oauth_pb2_grpc.AccountsStub(gateway.direct(deployment.grpc_address(), OAUTH)).CreateAccount(
            oauth_pb2.CreateAccountRequest(member_id="member-grace", login=LOGIN, password=PASSWORD),
            metadata=metadata,
        )
    finally:
        await gateway.close()
