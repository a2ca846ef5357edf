"""Two authorization servers on one PostgreSQL, and the gateway's certificate to talk to them."""

import asyncio
from collections.abc import Iterator

import pytest
from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc

from deploy.local import postgres
from deploy.local.mesh import LocalMesh
from tests.integration.oauth.authorization_servers import OAUTH, Deployment, prepared, running
from tests.integration.oauth.browser import LOGIN, MEMBER, PASSWORD
from tests.integration.oauth.outside_providers import write_settings
from tests.ports import free_port


@pytest.fixture(scope="session")
def provider_port() -> int:
    """Where the outside identity providers will be, if a test starts them."""
    return free_port()


@pytest.fixture(scope="session")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: LocalMesh, provider_port: int
) -> Iterator[Deployment]:
    home = tmp_path_factory.mktemp("oauth")
    providers = write_settings(home, provider_port, home / "ca" / "private" / "root.pem")
    settings = {"ISTHMUS_IDENTITY_PROVIDERS": str(providers)}
    deployed = prepared(home, postgres.url(postgres_server.home, "test_oauth"), settings=settings)
    with running(deployed, replicas=2):
        yield deployed


@pytest.fixture(scope="session")
def member(deployment: Deployment) -> str:
    asyncio.run(_create_account(deployment))
    return MEMBER


async def _create_account(deployment: Deployment) -> None:
    gateway = deployment.channels("core-gateway")
    metadata = await deployment.inner("accounts.write")
    try:
        await oauth_pb2_grpc.AccountsStub(gateway.direct(deployment.grpc_address(), OAUTH)).CreateAccount(
            oauth_pb2.CreateAccountRequest(member_id=MEMBER, login=LOGIN, password=PASSWORD),
            metadata=metadata,
        )
    finally:
        await gateway.close()
