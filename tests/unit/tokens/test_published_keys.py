"""When a verifier asks the issuer for its keys, and what it calls unknown."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import Unavailable
from security.tokens.keys import KEYS_MAX, UNKNOWN_KEYS_MAX, PublishedKeys, parse_jwk
from tests.unit.tokens.conftest import FakeClock

KEY = ec.generate_private_key(ec.SECP256R1())
KID = "key-1"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(kid: str = KID, **changes: Any) -> str:
    numbers = KEY.public_key().public_numbers()
    good = {
        "kty": "EC",
        "crv": "P-256",
        "use": "sig",
        "alg": "ES256",
        "kid": kid,
        "x": b64(numbers.x.to_bytes(32, "big")),
        "y": b64(numbers.y.to_bytes(32, "big")),
    }
    return json.dumps({name: value for name, value in (good | changes).items() if value is not ...})


class Issuer:
    """Answers with `jwks`, or fails when that is None; counts how often it was asked."""

    def __init__(self, *jwks: str) -> None:
        self.jwks: Sequence[str] | None = jwks
        self.asked = 0

    async def __call__(self, sought: str) -> Sequence[str]:
        self.asked += 1
        if self.jwks is None:
            raise ConnectionError("away")
        return self.jwks


@pytest.mark.parametrize(
    "changes",
    [
        {"kty": "RSA"},
        {"crv": "P-384"},
        {"use": "enc"},
        {"alg": "none"},
        {"kid": ...},
        {"kid": ""},
        {"x": ...},
        {"x": b64(b"\x01" * 32)},  # not on the curve
        {"x": "!" * 43},
        {"d": "secret"},
    ],
)
def test_a_key_of_another_kind_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        parse_jwk(jwk(**changes))


async def test_an_unknown_key_is_asked_for_at_most_once_a_second(clock: FakeClock) -> None:
    issuer = Issuer(jwk())
    keys = PublishedKeys(issuer, clock)
    for _ in range(50):
        assert await keys.key("key-2") is None
    assert issuer.asked == 1
    issuer.jwks = (jwk(), jwk("key-2"))
    clock.elapsed_s += 1
    assert await keys.key("key-2") is not None
    assert issuer.asked == 2


async def test_a_guessed_key_makes_no_other_one_unknown(clock: FakeClock) -> None:
    issuer = Issuer(jwk())
    keys = PublishedKeys(issuer, clock)
    assert await keys.key("guess") is None
    # Published since, and not asked for yet.
    issuer.jwks = (jwk(), jwk("key-2"))
    assert await keys.key("key-2") is not None


async def test_a_list_fetched_for_another_reason_does_not_make_a_key_unknown(clock: FakeClock) -> None:
    issuer = Issuer(jwk())
    keys = PublishedKeys(issuer, clock)
    issuer.jwks = None
    with pytest.raises(Unavailable):
        await keys.key("key-2")
    issuer.jwks = (jwk(),)
    await keys.start()
    await keys.stop(1)
    # The issuer was not asked about it since.
    with pytest.raises(Unavailable):
        await keys.key("key-2")
    issuer.jwks = (jwk(), jwk("key-2"))
    clock.elapsed_s += 1
    assert await keys.key("key-2") is not None


async def test_many_guesses_are_bounded_and_what_was_not_asked_for_is_not_called_unknown(clock: FakeClock) -> None:
    issuer = Issuer(jwk())
    keys = PublishedKeys(issuer, clock)
    assert await keys.key(KID) is not None
    asked = issuer.asked
    for number in range(UNKNOWN_KEYS_MAX):
        assert await keys.key(f"guess-{number}") is None
    for number in range(50):
        with pytest.raises(Unavailable, match="unknown keys"):
            await keys.key(f"another-guess-{number}")
    assert issuer.asked - asked == UNKNOWN_KEYS_MAX
    # A key that is here is found meanwhile, and others again a second later.
    assert await keys.key(KID) is not None
    clock.elapsed_s += 1
    issuer.jwks = (jwk(), jwk("key-2"))
    assert await keys.key("key-2") is not None


async def test_a_key_that_was_found_keeps_nobody_waiting_for_the_next(clock: FakeClock) -> None:
    issuer = Issuer(jwk())
    keys = PublishedKeys(issuer, clock)
    assert await keys.key(KID) is not None
    issuer.jwks = (jwk(), jwk("key-2"))
    assert await keys.key("key-2") is not None


async def test_a_key_that_is_listed_no_more_is_unknown_after_the_next_reading_and_others_stay_the_same_object(
    clock: FakeClock,
) -> None:
    issuer = Issuer(jwk(), jwk("key-2"))
    keys = PublishedKeys(issuer, clock)
    before = await keys.key("key-2")
    issuer.jwks = (jwk("key-2"), jwk("key-3"))
    # Whatever makes it read again.
    assert await keys.key("key-3") is not None
    clock.elapsed_s += 1
    assert await keys.key(KID) is None
    assert await keys.key("key-2") is before


async def test_known_keys_outlive_the_issuer_and_others_are_not_called_unknown_meanwhile(clock: FakeClock) -> None:
    issuer = Issuer(jwk())
    keys = PublishedKeys(issuer, clock)
    assert await keys.key(KID) is not None
    issuer.jwks = None
    for _ in range(2):
        with pytest.raises(Unavailable):
            await keys.key("another")
    assert issuer.asked == 2
    assert await keys.key(KID) is not None


@pytest.mark.parametrize("jwks", [(), ("{}",), (jwk(), "not json"), tuple(jwk(f"k{n}") for n in range(KEYS_MAX + 1))])
async def test_a_malformed_list_never_replaces_a_good_one(clock: FakeClock, jwks: tuple[str, ...]) -> None:
    issuer = Issuer(jwk())
    keys = PublishedKeys(issuer, clock)
    assert await keys.key(KID) is not None
    issuer.jwks = jwks
    with pytest.raises(Unavailable):
        await keys.key("another")
    assert await keys.key(KID) is not None


async def test_without_any_key_the_answer_is_unavailable_and_not_a_refusal(clock: FakeClock) -> None:
    issuer = Issuer()
    issuer.jwks = None
    with pytest.raises(Unavailable):
        await PublishedKeys(issuer, clock).key(KID)
