"""Members of these tests, with an account, and the app that they let in."""

import json
from collections.abc import Mapping

import pyotp

from chaos.load.client import Answer, PublicClient
from chaos.load.member import App, authorize
from deploy.local.mesh import LocalMesh
from tests.e2e.public import HELD, bearer

PASSWORD = "correct horse battery staple"
APP = App()


async def create_account(mesh: LocalMesh, client: PublicClient, member_id: str, login: str) -> None:
    body = {"member_id": member_id, "login": login, "password": PASSWORD}
    headers = await bearer(mesh, client, "accounts.write")
    answer = await client.send("POST", "/v1/accounts", json.dumps(body).encode(), headers)
    assert answer.status == 200, answer.body


async def enrol(mesh: LocalMesh, client: PublicClient, member_id: str) -> str:
    """Give the member a second factor; its one-time password of this moment."""
    headers = await bearer(mesh, client, "accounts.write")
    answer = await client.send("POST", f"/v1/accounts/{member_id}:enrolSecondFactor", b"{}", headers)
    assert answer.status == 200, answer.body
    factor = pyotp.parse_uri(json.loads(answer.body)["uri"])
    assert isinstance(factor, pyotp.TOTP)
    return factor.now()


async def sign_in(client: PublicClient, login: str, scope: str, **second: str) -> str:
    """Returns the access token. second: a one-time password, too."""
    verifier, code = await authorize(client, login, PASSWORD, scope, **second)
    answer = await redeem(client, code, verifier)
    assert answer.status == 200, answer.body
    return str(json.loads(answer.body)["access_token"])


async def redeem(client: PublicClient, code: str, verifier: str) -> Answer:
    return _held(await APP.redeem(client, code, verifier))


async def ask_for_token(client: PublicClient, form: Mapping[str, str]) -> Answer:
    return _held(await APP.ask(client, form))


def _held(answer: Answer) -> Answer:
    if answer.status == 200:
        HELD[json.loads(answer.body)["access_token"]] = APP.key
    return answer
