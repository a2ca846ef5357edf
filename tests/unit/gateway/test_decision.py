"""What a call must bring, rule by rule, and what it gets for its way: less than it came with, never more."""

import base64
import dataclasses
import hashlib
from collections.abc import Awaitable, Callable

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.call import Claims
from mesh.contract import load
from mesh.errors import MeshError, Unauthenticated, Unavailable
from mesh.spiffe import SpiffeId
from security.gateway.decision import Asked, Decider, Exchanger
from security.gateway.minting import LEFT_S_MIN, Mint
from security.tokens import inner
from security.tokens.dpop import Nonces
from security.tokens.jwk import public_jwk

CONTRACT = load()
ORIGIN = "https://shop.example"
NOW_S = 1_800_000_000
CORE, EDGE = SpiffeId("private", "core-gateway"), SpiffeId("public", "edge-gateway")
PLACE, READ = "/isthmus.orders.v1.Orders/PlaceOrder", "/isthmus.orders.v1.Orders/GetOrder"
CHECK = "/isthmus.members.v1.Members/CheckMember"
GOOD = Claims(
    "member-1",
    "shop-web",
    frozenset({"orders.read", "orders.write", "payments.write", "catalog.write"}),
    NOW_S + 600,
    "outside-1",
    issued=NOW_S - 5,
    session_id="family-1",
)


class FakeClock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def now_us(self) -> int:
        return self.now_s * 1_000_000

    def monotonic(self) -> float:
        return float(self.now_s)


class OneToken:
    """Takes the token `good` only."""

    def __init__(self, claims: Claims = GOOD) -> None:
        self.claims = claims

    async def verify(self, token: str) -> Claims:
        if token != "good":
            raise Unauthenticated("TOKEN_SIGNATURE", "no")
        return self.claims


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def mint(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Mint:
    monkeypatch.setattr("security.gateway.minting.LEARN_S", 0)

    async def publish(jwk: str) -> None:
        """Nobody asks for it here."""

    made = Mint("isthmus.internal", publish, clock)
    await made._renew()
    return made


class UsedOnce:
    """Proofs in memory."""

    def __init__(self) -> None:
        self.used: set[bytes] = set()

    async def first_use(self, digest: bytes, until: int) -> bool:
        first = digest not in self.used
        self.used.add(digest)
        return first


def decider(mint: Mint, clock: FakeClock, claims: Claims = GOOD) -> Decider:
    return Decider(CONTRACT, OneToken(claims), mint, UsedOnce(), Nonces(b"k", clock), CORE, EDGE, ORIGIN, clock)


def asked(path: str, authorization: str = "", **more: str) -> Asked:
    """From outside, unless `more` names another peer."""
    return Asked(path, authorization, **({"peer": str(EDGE)} | more))


def said(text: str) -> dict[str, object]:
    found: dict[str, object] = jwt.decode(text, options={"verify_signature": False})
    return found


async def reason(work: Awaitable[object]) -> str:
    with pytest.raises(MeshError) as caught:
        await work
    return caught.value.reason


async def test_a_call_gets_an_inner_token_with_less_of_everything(mint: Mint, clock: FakeClock) -> None:
    decided = await decider(mint, clock).decide(asked(PLACE, "Bearer good"))
    assert decided.token
    claims = said(decided.token.text)
    assert (claims["aud"], claims["sub"], claims["client_id"]) == ("orders", "member-1", "shop-web")
    assert (claims["sid"], claims["origin"], claims["origin_iat"]) == ("family-1", "outside-1", NOW_S - 5)
    assert claims["act"] == {"sub": str(CORE)}
    assert claims["exp"] == NOW_S + inner.LIFE_S
    scopes = set(str(claims["scope"]).split())
    assert scopes == inner.reach(CONTRACT)[PLACE] & GOOD.scopes
    assert "catalog.write" not in scopes


async def test_who_calls_too_often_waits_and_others_do_not(mint: Mint, clock: FakeClock) -> None:
    asks = decider(mint, clock)
    for _ in range(CONTRACT.rates[CONTRACT.methods[PLACE].rate_class].member.burst):
        await asks.decide(asked(PLACE, "Bearer good"))
    assert await reason(asks.decide(asked(PLACE, "Bearer good"))) == "RATE_EXCEEDED"
    clock.now_s += 1
    assert (await asks.decide(asked(PLACE, "Bearer good"))).token


async def test_an_inner_token_does_not_outlive_the_one_it_is_made_of(mint: Mint, clock: FakeClock) -> None:
    short = dataclasses.replace(GOOD, expires=NOW_S + 7)
    decided = await decider(mint, clock, short).decide(asked(PLACE, "Bearer good"))
    assert decided.token
    assert decided.token.expires == NOW_S + 7


async def test_a_token_is_used_again_while_it_lasts(mint: Mint, clock: FakeClock) -> None:
    asks = decider(mint, clock)
    first = await asks.decide(asked(PLACE, "Bearer good"))
    assert (await asks.decide(asked(PLACE, "Bearer good"))).token is first.token
    clock.now_s += inner.LIFE_S - LEFT_S_MIN + 1
    later = await asks.decide(asked(PLACE, "Bearer good"))
    assert later.token is not first.token


@pytest.mark.parametrize(
    ("wanted", "rule"),
    [
        (asked(PLACE), "TOKEN_MISSING"),
        (asked(PLACE, "good"), "TOKEN_MISSING"),
        (asked(PLACE, "Basic good"), "TOKEN_MISSING"),
        (asked(PLACE, "Bearer "), "TOKEN_MISSING"),
        (asked(PLACE, "Bearer bad"), "TOKEN_SIGNATURE"),
        (asked(PLACE, "Bearer good,Bearer good"), "TOKEN_SIGNATURE"),
        (asked("/isthmus.members.v1.Members/RegisterMember", "Bearer good"), "SCOPE_MISSING"),
        (asked("/isthmus.ads.v1.Ads/Decide", "Bearer good"), "METHOD_UNKNOWN"),
        (asked("/grpc.health.v1.Health/Check", "Bearer good"), "METHOD_UNKNOWN"),
        (asked("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "Bearer good"), "METHOD_UNKNOWN"),
        (asked("", "Bearer good"), "METHOD_UNKNOWN"),
    ],
)
async def test_what_does_not_pass(mint: Mint, clock: FakeClock, wanted: Asked, rule: str) -> None:
    assert await reason(decider(mint, clock).decide(wanted)) == rule


async def test_a_token_bound_to_a_certificate_needs_it_and_stays_bound(mint: Mint, clock: FakeClock) -> None:
    bound = dataclasses.replace(GOOD, confirmation={"x5t#S256": "a" * 43})
    asks = decider(mint, clock, bound)
    for other in ("", "b" * 43):
        assert await reason(asks.decide(asked(PLACE, "Bearer good", thumbprint=other))) == "TOKEN_BINDING"
    decided = await asks.decide(asked(PLACE, "Bearer good", thumbprint="a" * 43))
    assert decided.token
    assert said(decided.token.text)["cnf"] == {"x5t#S256": "a" * 43}


async def test_a_workload_s_own_token_is_bound_to_its_certificate(mint: Mint, clock: FakeClock) -> None:
    """Whoever comes to the core gateway by itself: a token that anybody could send is not for it."""
    by = {"peer": str(SpiffeId("private", "operator")), "thumbprint": "a" * 43}
    asks = decider(mint, clock)
    for one in (by, by | {"peer": ""}, by | {"peer": str(SpiffeId("public", "operator"))}):
        assert await reason(asks.decide(asked(PLACE, "Bearer good", **one))) == "TOKEN_BINDING"
    bound = decider(mint, clock, dataclasses.replace(GOOD, confirmation={"x5t#S256": "a" * 43}))
    assert (await bound.decide(asked(PLACE, "Bearer good", **by))).token


async def test_without_a_published_key_nothing_is_signed(clock: FakeClock) -> None:
    async def publish(jwk: str) -> None:
        """Not called."""

    with pytest.raises(Unavailable):
        await decider(Mint("isthmus.internal", publish, clock), clock).decide(asked(PLACE, "Bearer good"))


Exchange = Callable[[str, str, Claims], Awaitable[dict[str, object]]]


@pytest.fixture
def exchange(mint: Mint) -> Exchange:
    async def run(workload: str, path: str, claims: Claims) -> dict[str, object]:
        exchanger = Exchanger(CONTRACT, {workload: OneToken(claims)}, mint)
        made = await exchanger.exchange(SpiffeId("private", workload), "good", path)
        return said(made.text)

    return run


INSIDE = dataclasses.replace(
    GOOD, scopes=frozenset({"orders.write"}), expires=NOW_S + 40, actors=(str(CORE),), token_id="i1", origin="outside-1"
)


async def test_an_exchange_hands_the_chain_on_and_takes_nothing_off_the_clock(exchange: Exchange) -> None:
    claims = await exchange("orders", CHECK, INSIDE)
    assert claims["aud"] == "members"
    assert claims["act"] == {"sub": str(SpiffeId("private", "orders")), "act": {"sub": str(CORE)}}
    assert claims["exp"] == NOW_S + 40
    assert (claims["origin"], claims["scope"]) == ("outside-1", "orders.write")


async def test_an_exchange_never_widens(exchange: Exchange) -> None:
    narrow = dataclasses.replace(INSIDE, scopes=frozenset({"payments.write"}))
    assert await reason(exchange("orders", CHECK, narrow)) == "SCOPE_MISSING"
    wide = dataclasses.replace(INSIDE, scopes=frozenset({"orders.write", "catalog.write"}))
    assert (await exchange("orders", CHECK, wide))["scope"] == "orders.write"


async def test_the_tokens_of_two_calls_of_one_subject_are_kept_apart(mint: Mint) -> None:
    path = "/isthmus.orders.v1.Orders/GetOrder"
    for scopes in (frozenset({"orders.read", "orders.write"}), frozenset({"orders.read"})):
        claims = dataclasses.replace(INSIDE, scopes=scopes)
        exchanger = Exchanger(CONTRACT, {"payments": OneToken(claims)}, mint)
        made = await exchanger.exchange(SpiffeId("private", "payments"), "good", path)
        assert set(str(said(made.text)["scope"]).split()) <= scopes


@pytest.mark.parametrize(
    ("workload", "path"),
    [
        ("catalog", CHECK),
        ("orders", PLACE),
        ("orders", "/isthmus.ads.v1.Ads/Decide"),
        ("orders", "/grpc.health.v1.Health/Check"),
        ("orders", ""),
    ],
)
async def test_nobody_exchanges_for_what_it_may_not_call(exchange: Exchange, workload: str, path: str) -> None:
    assert await reason(exchange(workload, path, INSIDE)) == "EXCHANGE_TARGET"


async def test_a_chain_of_actors_ends(exchange: Exchange) -> None:
    long = dataclasses.replace(INSIDE, actors=(str(CORE),) * inner.ACTORS_MAX)
    assert await reason(exchange("orders", CHECK, long)) == "ACTORS_TOO_MANY"


def test_a_method_reaches_what_its_service_may_call_for_it_and_no_more() -> None:
    reach = inner.reach(CONTRACT)
    assert reach["/isthmus.catalog.v1.Catalog/PutCampaign"] == {"catalog.write"}
    assert {"payments.write", "orders.read"} <= reach["/isthmus.payments.v1.Payments/AuthorizePayment"]
    for path, scopes in reach.items():
        assert CONTRACT.methods[path].scopes <= scopes


def proof(key: ec.EllipticCurvePrivateKey, nonce: str, proof_id: str = "p1", outside: str = "/v1/orders") -> str:
    jwk = {name: value for name, value in public_jwk(key.public_key()).items() if name in {"kty", "crv", "x", "y"}}
    ath = base64.urlsafe_b64encode(hashlib.sha256(b"good").digest()).rstrip(b"=").decode()
    said = {"jti": proof_id, "htm": "POST", "htu": ORIGIN + outside, "iat": NOW_S, "ath": ath, "nonce": nonce}
    return jwt.encode(said, key, "ES256", {"typ": "dpop+jwt", "jwk": jwk})


async def test_a_token_bound_to_a_key_needs_a_fresh_proof_of_it(mint: Mint, clock: FakeClock) -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    jkt = public_jwk(key.public_key())["kid"]
    asks = decider(mint, clock, dataclasses.replace(GOOD, confirmation={"jkt": jkt}))
    nonce = Nonces(b"k", clock).current()

    def proven(text: str, scheme: str = "DPoP", outside: str = "/v1/orders") -> Asked:
        return asked(PLACE, f"{scheme} good", proof=text, verb="POST", outside=outside)

    good = proof(key, nonce)
    assert await reason(asks.decide(proven(""))) == "PROOF_MISSING"
    assert await reason(asks.decide(proven(good, "Bearer"))) == "PROOF_MISSING"
    assert await reason(asks.decide(proven(proof(other, nonce)))) == "PROOF_INVALID"
    assert await reason(asks.decide(proven(proof(key, "")))) == "PROOF_NONCE"
    assert await reason(asks.decide(proven(good, outside="/v1/payments"))) == "PROOF_INVALID"
    decided = await asks.decide(proven(good))
    assert decided.token
    assert said(decided.token.text)["cnf"] == {"jkt": jkt}
    assert await reason(asks.decide(proven(good))) == "PROOF_REPLAYED"
    assert await asks.decide(proven(proof(key, nonce, "p2")))


async def test_a_proof_makes_no_bound_token_of_one_that_is_not(mint: Mint, clock: FakeClock) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    text = proof(key, Nonces(b"k", clock).current())
    sent = asked(PLACE, "DPoP good", proof=text, verb="POST", outside="/v1/orders")
    assert await reason(decider(mint, clock).decide(sent)) == "TOKEN_BINDING"
