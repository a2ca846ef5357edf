"""A token that is refused is replaced once, as any client does; what fails for another reason is not sent again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from chaos.load.client import Answer
from chaos.load.token import PatientToken


class Client:
    """Takes one token alone, and tells no nonces."""

    url, session = "https://localhost", None

    def __init__(self, good: str, status: int = 200) -> None:
        self.good, self.status = f"DPoP {good}", status
        self.sent: list[str] = []

    async def send(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        shown = (headers or {})["authorization"]
        self.sent.append(shown)
        return Answer(self.status if shown == self.good else 401, {}, b"")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the authorization server gives, the next one last."""
    given: list[str] = []

    async def renew(self: Any, session: object, issuer: str) -> None:
        self._text, self._renew_at = given.pop(), float("inf")

    monkeypatch.setattr("mesh.client.token.ClientToken._renew", renew)
    return given


def token(client: Client) -> PatientToken:
    made: Any = client
    return PatientToken(made, "storefront", Path("key.pem"), "orders.write")


@pytest.mark.parametrize(("later", "status"), [("new", 200), ("bad too", 401)])
async def test_a_refused_token_is_replaced_once(given: list[str], later: str, status: int) -> None:
    given += [later, "old"]
    client = Client("new")
    assert (await token(client).send("POST", "/v1/orders", b"{}")).status == status
    assert client.sent == ["DPoP old", f"DPoP {later}"]


async def test_what_is_refused_for_another_reason_is_not_sent_again(given: list[str]) -> None:
    given += ["good"]
    client = Client("good", 503)
    held = token(client)
    assert (await held.send("POST", "/v1/orders", b"{}")).status == 503
    assert client.sent == ["DPoP good"]
    # And an old one is shown as it is.
    assert (await held.send_with("old", "GET", "/v1/orders/none")).status == 401
    assert client.sent == ["DPoP good", "DPoP old"]
