"""Refresh tokens: used up by their use; whoever uses one again ends the family, unless the answer had just got lost."""

import asyncio
import base64
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc

from tests.integration.oauth.authorization_servers import OAUTH, Deployment, Reply
from tests.integration.oauth.browser import MEMBER, Browser
from tests.integration.room import plain

pytestmark = pytest.mark.usefixtures("member")


def refresh(deployment: Deployment, token: str, replica: int = 0, **changes: str) -> Reply:
    form = {"grant_type": "refresh_token", "client_id": "shop-web", "refresh_token": token} | changes
    return deployment.call("POST", "/oauth/token", form={k: v for k, v in form.items() if v}, replica=replica)


def revoke(deployment: Deployment, token: str, client_id: str = "shop-web") -> Reply:
    return deployment.call("POST", "/oauth/revoke", form={"client_id": client_id, "token": token})


def signed_in(deployment: Deployment) -> Any:
    """The answer to a fresh code."""
    browser = Browser(deployment)
    reply = browser.redeem(browser.code())
    assert reply.status == 200, reply.body
    return reply.json


def claims(token: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return found


def active(deployment: Deployment, token: str) -> bool:
    """Whether no revocation names the token's family."""
    with psycopg.connect(plain(deployment.url)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM oauth.revocations WHERE kind = 'family'")}
    return claims(token)["sid"] not in names


def events(deployment: Deployment, event: str) -> list[tuple[str, ...]]:
    """Decision, client, data subject, subject and reason of the records of one kind, in their order."""
    with psycopg.connect(plain(deployment.url)) as connection:
        rows = connection.execute(
            "SELECT decision, token_client, data_subject, token_subject, reason FROM audit.record"
            " WHERE method = %s ORDER BY time_us",
            [f"/isthmus.oauth/{event}"],
        )
        return [tuple(map(str, row)) for row in rows]


async def sign_out_everywhere(deployment: Deployment, member_id: str) -> None:
    gateway = deployment.channels("core-gateway")
    try:
        stub: oauth_pb2_grpc.AccountsAsyncStub = oauth_pb2_grpc.AccountsStub(
            gateway.direct(deployment.grpc_address(), OAUTH)
        )
        request = oauth_pb2.SignOutEverywhereRequest(member_id=member_id)
        await stub.SignOutEverywhere(request, metadata=await deployment.inner("accounts.write"))
    finally:
        await gateway.close()


def age_uses(deployment: Deployment) -> None:
    """Let the grace of every use be over."""
    with psycopg.connect(plain(deployment.url)) as connection:
        connection.execute("UPDATE oauth.refresh_tokens SET used_at = used_at - interval '1 minute'")


def test_a_refresh_gives_both_tokens_anew_on_either_replica(deployment: Deployment) -> None:
    first = signed_in(deployment)
    second = refresh(deployment, first["refresh_token"], replica=1)
    assert second.status == 200, second.body
    assert second.json["refresh_token"] != first["refresh_token"]
    old, new = claims(first["access_token"]), claims(second.json["access_token"])
    for name in ("sub", "client_id", "aud", "scope", "sid", "auth_time", "iss"):
        assert new[name] == old[name]
    assert new["jti"] != old["jti"]
    assert refresh(deployment, second.json["refresh_token"]).status == 200


def test_of_fifty_who_refresh_at_once_one_wins_and_all_get_its_answer(deployment: Deployment) -> None:
    token = signed_in(deployment)["refresh_token"]
    with ThreadPoolExecutor(50) as threads:
        replies = list(threads.map(lambda n: refresh(deployment, token, replica=n % 2), range(50)))
    assert Counter(reply.status for reply in replies) == {200: 50}
    assert len({reply.body for reply in replies}) == 1
    # The family lives on, with one successor.
    assert refresh(deployment, replies[0].json["refresh_token"]).status == 200


def test_a_late_replay_ends_the_family(deployment: Deployment) -> None:
    first = signed_in(deployment)
    second = refresh(deployment, first["refresh_token"]).json
    age_uses(deployment)
    before = len(events(deployment, "ReuseRefreshToken"))
    assert refresh(deployment, first["refresh_token"], replica=1).json["error"] == "invalid_grant"
    assert refresh(deployment, second["refresh_token"]).json["error"] == "invalid_grant"
    assert not active(deployment, second["access_token"])
    assert not active(deployment, first["access_token"])
    # On record with the very transaction that ended it, and once.
    reused = events(deployment, "ReuseRefreshToken")[before:]
    assert reused == [("2", "shop-web", "", MEMBER, "REFRESH_REUSED")]


def test_a_replay_after_the_successor_was_used_ends_the_family_even_within_the_grace(deployment: Deployment) -> None:
    first = signed_in(deployment)
    second = refresh(deployment, first["refresh_token"]).json
    third = refresh(deployment, second["refresh_token"]).json
    assert refresh(deployment, first["refresh_token"]).json["error"] == "invalid_grant"
    assert refresh(deployment, third["refresh_token"]).json["error"] == "invalid_grant"


def test_another_client_cannot_refresh_and_does_no_harm(deployment: Deployment) -> None:
    token = signed_in(deployment)["refresh_token"]
    other = refresh(deployment, token, client_id="sandbox", client_secret=deployment.secret)
    assert other.json["error"] in {"invalid_grant", "unauthorized_client"}
    assert refresh(deployment, token).status == 200


def test_a_scope_can_only_get_smaller(deployment: Deployment) -> None:
    token = signed_in(deployment)["refresh_token"]
    assert refresh(deployment, token, scope="orders.read payments.write").json["error"] == "invalid_scope"
    smaller = refresh(deployment, token, scope="orders.read")
    assert smaller.json["scope"] == "orders.read"


def test_a_replayed_code_ends_what_it_began(deployment: Deployment) -> None:
    browser = Browser(deployment)
    code = browser.code()
    first = browser.redeem(code).json
    assert browser.redeem(code, replica=1).json["error"] == "invalid_grant"
    assert not active(deployment, first["access_token"])
    assert refresh(deployment, first["refresh_token"]).json["error"] == "invalid_grant"


def test_a_revoked_refresh_token_takes_the_family_along(deployment: Deployment) -> None:
    first = signed_in(deployment)
    second = refresh(deployment, first["refresh_token"]).json
    assert revoke(deployment, second["refresh_token"]).status == 200
    assert refresh(deployment, second["refresh_token"]).json["error"] == "invalid_grant"
    assert not active(deployment, second["access_token"])
    assert ("1", "shop-web", MEMBER, "", "") in events(deployment, "RevokeFamily")
    # Again, and for what never was a token: the same answer (RFC 7009, section 2.2).
    assert revoke(deployment, second["refresh_token"]).status == 200
    assert revoke(deployment, "never.was.one").status == 200
    assert revoke(deployment, "neither").status == 200


def test_nobody_revokes_the_token_of_another_client(deployment: Deployment) -> None:
    first = signed_in(deployment)
    form = {"client_id": "sandbox", "client_secret": deployment.secret, "token": first["refresh_token"]}
    assert deployment.call("POST", "/oauth/revoke", form=form).json["error"] == "invalid_grant"
    assert refresh(deployment, first["refresh_token"]).status == 200


def test_a_client_asks_about_its_own_tokens_only(deployment: Deployment) -> None:
    own = deployment.token("orders.read").json["access_token"]
    proof = {"client_id": "sandbox", "client_secret": deployment.secret}

    def ask(token: str, **changes: str) -> Reply:
        return deployment.call("POST", "/oauth/introspect", form=proof | {"token": token} | changes, replica=1)

    said = ask(own).json
    assert (said["active"], said["scope"], said["sub"], said["token_type"]) == (
        True,
        "orders.read",
        "sandbox",
        "Bearer",
    )
    foreign = signed_in(deployment)
    for token in (foreign["access_token"], foreign["refresh_token"], "never", own[:-4] + "AAAA"):
        assert ask(token).json == {"active": False}
    assert ask(own, client_secret="wrong").status == 401
    no_proof = deployment.call("POST", "/oauth/introspect", form={"client_id": "shop-web", "token": own})
    assert no_proof.json["error"] == "invalid_client"


async def test_a_revocation_is_listed_for_every_service_on_both_replicas(deployment: Deployment) -> None:
    token = deployment.token("orders.read").json["access_token"]
    form = {"client_id": "sandbox", "client_secret": deployment.secret, "token": token}
    assert deployment.call("POST", "/oauth/revoke", form=form).status == 200
    channels = deployment.channels("orders-1")
    wanted = (oauth_pb2.REVOCATION_KIND_TOKEN, claims(token)["jti"])
    try:
        for replica in (0, 1):
            stub: oauth_pb2_grpc.KeysAsyncStub = oauth_pb2_grpc.KeysStub(
                channels.direct(deployment.grpc_address(replica), OAUTH)
            )
            ends = time.monotonic() + 5
            while True:
                answer = await stub.ListRevocations(oauth_pb2.ListRevocationsRequest())
                if wanted in {(each.kind, each.name) for each in answer.revocations}:
                    break
                assert time.monotonic() < ends, "the revocation is not listed"
                await asyncio.sleep(0.05)
            again = await stub.ListRevocations(oauth_pb2.ListRevocationsRequest(version=answer.version))
            assert again.unchanged
            assert not again.revocations
    finally:
        await channels.close()


async def test_signing_out_everywhere_ends_every_family_and_every_token_made_until_then(deployment: Deployment) -> None:
    opened = [signed_in(deployment), signed_in(deployment)]
    await sign_out_everywhere(deployment, MEMBER)
    for each in opened:
        assert refresh(deployment, each["refresh_token"]).json["error"] == "invalid_grant"
    with psycopg.connect(plain(deployment.url)) as connection:
        wanted = "SELECT name FROM oauth.revocations WHERE kind = 'subject'"
        assert connection.execute(wanted).fetchall() == [(MEMBER,)]
        # Other tests go on with the same member.
        connection.execute("DELETE FROM oauth.revocations WHERE kind = 'subject'")
    assert ("1", "", MEMBER, "", "") in events(deployment, "SignOutEverywhere")


async def test_signing_out_an_id_that_is_no_members_writes_nothing(deployment: Deployment) -> None:
    before = events(deployment, "SignOutEverywhere")
    # Digits of a phone, where an id belongs.
    await sign_out_everywhere(deployment, "13955501237")
    with psycopg.connect(plain(deployment.url)) as connection:
        wanted = "SELECT name FROM oauth.revocations WHERE name = '13955501237'"
        assert connection.execute(wanted).fetchall() == []
    assert events(deployment, "SignOutEverywhere") == before


async def test_signing_out_reaches_what_an_account_that_is_gone_has_left(deployment: Deployment) -> None:
    signed_in(deployment)
    with psycopg.connect(plain(deployment.url)) as connection:
        connection.execute(
            f"UPDATE oauth.families SET member_id = 'member-gone' WHERE member_id = '{MEMBER}' AND ended_at IS NULL"
        )
    await sign_out_everywhere(deployment, "member-gone")
    with psycopg.connect(plain(deployment.url)) as connection:
        live = "SELECT count(*) FROM oauth.families WHERE member_id = 'member-gone' AND ended_at IS NULL"
        assert connection.execute(live).fetchall() == [(0,)]
        wanted = "DELETE FROM oauth.revocations WHERE name = 'member-gone' RETURNING kind"
        assert connection.execute(wanted).fetchall() == [("subject",)]


def test_every_issue_and_sign_in_is_on_record(deployment: Deployment) -> None:
    def allowed(event: str) -> list[tuple[str, ...]]:
        return [each for each in events(deployment, event) if each[0] == "1"]

    issued, signed = len(allowed("IssueToken")), len(allowed("SignIn"))
    first = signed_in(deployment)
    refresh(deployment, first["refresh_token"])
    deployment.token("orders.read")
    assert allowed("SignIn")[signed:] == [("1", "shop-web", MEMBER, "", "pwd")]
    assert allowed("IssueToken")[issued:] == [
        ("1", "shop-web", "", MEMBER, "authorization_code"),
        ("1", "shop-web", "", MEMBER, "refresh_token"),
        ("1", "sandbox", "", "sandbox", "client_credentials"),
    ]


def test_no_refresh_token_and_no_answer_lies_in_the_database(deployment: Deployment) -> None:
    first = signed_in(deployment)
    second = refresh(deployment, first["refresh_token"]).json
    with psycopg.connect(plain(deployment.url)) as connection:
        rows = connection.execute("SELECT * FROM oauth.refresh_tokens, oauth.families").fetchall()
    text = repr([bytes(value) if isinstance(value, memoryview) else value for row in rows for value in row])
    for answer in (first, second):
        assert answer["refresh_token"] not in text
        assert answer["access_token"] not in text
