"""A second factor: enrolled once, asked for from its first use on, each password good once, told in the token."""

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pyotp
import pytest
from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc

from mesh.errors import AlreadyExists, NotFound
from security.tokens.admission import STEP_UP_CONTEXT
from tests.integration.oauth.authorization_servers import OAUTH, Deployment
from tests.integration.oauth.browser import Browser, returned
from tests.integration.room import plain


async def enrol(deployment: Deployment, member_id: str) -> str:
    """The secret, as the member's app scans it."""
    gateway = deployment.channels("core-gateway")
    try:
        stub: oauth_pb2_grpc.AccountsAsyncStub = oauth_pb2_grpc.AccountsStub(
            gateway.direct(deployment.grpc_address(), OAUTH)
        )
        answer = await stub.EnrolSecondFactor(
            oauth_pb2.EnrolSecondFactorRequest(member_id=member_id), metadata=await deployment.inner("accounts.write")
        )
    finally:
        await gateway.close()
    parts = urlsplit(answer.uri)
    assert (parts.scheme, parts.netloc) == ("otpauth", "totp")
    return parse_qs(parts.query)["secret"][0]


def sql(deployment: Deployment, statement: str) -> list[Any]:
    with psycopg.connect(plain(deployment.url)) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(autouse=True)
def nothing_left(deployment: Deployment, member: str) -> Iterator[None]:
    """The member is shared with other tests, which sign in without a second factor."""
    yield
    sql(deployment, "DELETE FROM oauth.second_factors")
    sql(deployment, "UPDATE oauth.accounts SET failures = 0, locked_until = NULL")


def claims(deployment: Deployment, browser: Browser, **fields: str) -> dict[str, Any]:
    reply = browser.redeem(returned(browser.sign_in(**fields))["code"])
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(reply.json["access_token"].split(".")[1] + "=="))
    return found


async def test_a_sign_in_with_both_factors_is_told_in_the_token(deployment: Deployment, member: str) -> None:
    totp = pyotp.TOTP(await enrol(deployment, member))
    # Enrolled and never used: nobody is shut out by a code that was not scanned.
    assert "acr" not in claims(deployment, Browser(deployment))
    password = totp.now()
    found = claims(deployment, Browser(deployment), second=password)
    assert (found["acr"], found["amr"]) == (STEP_UP_CONTEXT, ["pwd", "otp", "mfa"])
    # The same again, on the other replica; and none at all, from now on.
    assert Browser(deployment, replica=1).sign_in(second=password).status == 403
    assert Browser(deployment).sign_in().status == 403
    with pytest.raises(AlreadyExists):
        await enrol(deployment, member)


async def test_an_app_can_ask_for_the_second_factor(deployment: Deployment, member: str) -> None:
    browser = Browser(deployment)
    browser.request["acr_values"] = STEP_UP_CONTEXT
    assert browser.sign_in().status == 403
    totp = pyotp.TOTP(await enrol(deployment, member))
    assert browser.sign_in(second="000000").status == 403
    assert claims(deployment, browser, second=totp.now())["acr"] == STEP_UP_CONTEXT


async def test_a_refreshed_token_says_when_the_factors_were_really_shown(deployment: Deployment, member: str) -> None:
    totp = pyotp.TOTP(await enrol(deployment, member))
    browser = Browser(deployment)
    first = browser.redeem(returned(browser.sign_in(second=totp.now()))["code"]).json
    form = {"grant_type": "refresh_token", "client_id": "shop-web", "refresh_token": first["refresh_token"]}
    second = deployment.call("POST", "/oauth/token", form=form, replica=1).json
    old, new = (
        json.loads(base64.urlsafe_b64decode(each["access_token"].split(".")[1] + "==")) for each in (first, second)
    )
    assert (new["acr"], new["auth_time"]) == (STEP_UP_CONTEXT, old["auth_time"])


async def test_the_secret_lies_sealed_and_nobody_without_an_account_gets_one(
    deployment: Deployment, member: str
) -> None:
    secret = await enrol(deployment, member)
    [(sealed,)] = sql(deployment, "SELECT sealed FROM oauth.second_factors")
    assert secret.encode() not in bytes(sealed)
    with pytest.raises(NotFound):
        await enrol(deployment, "nobody")
