"""Of a member who is erased the authorization server keeps an id that says nothing, and for as long as tokens live."""

import psycopg
import pytest
from isthmus.oauth.v1 import oauth_pb2 as pb
from isthmus.oauth.v1.oauth_pb2_grpc import AccountsStub

from mesh.errors import PermissionDenied
from tests.integration.oauth.authorization_servers import OAUTH, Deployment
from tests.integration.oauth.browser import PASSWORD, Browser, returned
from tests.integration.room import plain

MEMBER, LOGIN = "0d9b1f5e-6c55-4a1b-8f0e-7c2f4b8f1a77", "zephyrine@example.org"


async def erase(deployment: Deployment, process: str) -> None:
    channels = deployment.channels(process)
    try:
        stub = AccountsStub(channels.direct(deployment.grpc_address(), OAUTH))
        await stub.EraseAccount(pb.EraseAccountRequest(member_id=MEMBER))
    finally:
        await channels.close()


async def create(deployment: Deployment) -> None:
    channels = deployment.channels("core-gateway")
    try:
        stub = AccountsStub(channels.direct(deployment.grpc_address(), OAUTH))
        metadata = await deployment.inner("accounts.write")
        request = pb.CreateAccountRequest(member_id=MEMBER, login=LOGIN, password=PASSWORD)
        await stub.CreateAccount(request, metadata=metadata)
        await stub.EnrolSecondFactor(pb.EnrolSecondFactorRequest(member_id=MEMBER), metadata=metadata)
    finally:
        await channels.close()


def known(deployment: Deployment) -> set[str]:
    """The tables that say something of the member."""
    with psycopg.connect(plain(deployment.url)) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'oauth'"
        ).fetchall()
        asked = "SELECT 1 FROM oauth.{} AS one WHERE to_jsonb(one)::text LIKE '%{}%' LIMIT 1"
        return {table for (table,) in tables if connection.execute(asked.format(table, MEMBER)).fetchone()}


async def test_an_erased_members_account_goes_with_all_that_hangs_on_it(deployment: Deployment) -> None:
    await create(deployment)
    browser = Browser(deployment)
    entered = browser.sign_in(login=LOGIN)
    tokens = browser.redeem(returned(entered)["code"]).json
    assert {"accounts", "sessions", "consents", "second_factors"} <= known(deployment)

    with pytest.raises(PermissionDenied, match="CALLER_NOT_ALLOWED"):
        await erase(deployment, "core-gateway")
    assert "accounts" in known(deployment)
    await erase(deployment, "operator")
    # Families and revocations hold the id until their tokens have run out.
    assert known(deployment) <= {"families", "revocations"}
    form = {"grant_type": "refresh_token", "client_id": "shop-web", "refresh_token": tokens["refresh_token"]}
    assert deployment.call("POST", "/oauth/token", form=form).json["error"] == "invalid_grant"
    again = Browser(deployment)
    assert again.send(again.open(), fields={"login": LOGIN}).status != 200
    # A repetition, and an id that never had an account, are no errors.
    await erase(deployment, "members-1")
    with psycopg.connect(plain(deployment.url)) as connection:
        connection.execute("DELETE FROM oauth.revocations WHERE kind = 'subject'")
