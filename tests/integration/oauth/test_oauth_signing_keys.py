"""Signing keys in a hurry: one new key takes the place of all others, on every replica, and every verifier knew it."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from deploy.local import postgres
from deploy.local.mesh import LocalMesh
from security.keys.keyring import Keyring
from security.oauth.domain import KeyRules
from security.oauth.logins import Logins
from security.oauth.signing import SigningKeys
from security.oauth.store import Store
from security.oauth.transactions import Transactions
from tests.integration.oauth.authorization_servers import prepared

RULES = KeyRules()


class Clock:
    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_us(self) -> int:
        return round((time.time() + self.ahead_s) * 1e6)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replicas(tmp_path: Path, postgres_server: LocalMesh, clock: Clock) -> Iterator[list[SigningKeys]]:
    deployed = prepared(tmp_path, postgres.url(postgres_server.home, "test_signing"))
    engine = create_engine(deployed.url)
    store = Store(Transactions(engine), Logins(bytes(32)))
    keyring = tmp_path / "keyring.json"
    yield [SigningKeys(store, Keyring.open(keyring), RULES, clock) for _ in range(2)]
    engine.dispose()


async def test_a_replaced_key_is_followed_by_one_that_everybody_knew_before_it_signed(
    replicas: list[SigningKeys], clock: Clock
) -> None:
    first, second = replicas
    await first.refresh()
    await second.refresh()
    old = first.current().dates.kid

    new = await first.replace()
    # Whoever asks again, and whomever they ask, gets the same one.
    assert await second.replace() == new
    for replica in replicas:
        await replica.refresh()
        assert len(replica.published()) == 2
        assert replica.current().dates.kid == old

    clock.ahead_s += (RULES.hurried_ahead + timedelta(seconds=1)).total_seconds()
    for replica in replicas:
        # It signs from its moment on, also where nobody has looked again since.
        assert replica.current().dates.kid == new.kid
        await replica.refresh()
        assert len(replica.published()) == 1
        assert await replica.key(old) is None
        assert await replica.key(new.kid) is not None

    # Another theft, another key.
    assert (await second.replace()).kid != new.kid
