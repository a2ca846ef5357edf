"""Click tokens: what is signed here verifies here, and nothing else does."""

import hashlib
import hmac
import stat
from base64 import urlsafe_b64decode, urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from public_edge.clicks import keys
from public_edge.clicks.domain import Expired, Forged, KeyRing, Malformed, Replays, Signer, Ticket, _mac, texts
from public_edge.clicks.keys import ClickKeysError

TICKET = Ticket(bytes(range(16)), "position-1", "campaign-7", "creative-7", expires_s=2_000)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=64)


def _sign(signer: Signer, ticket: Ticket) -> str:
    names = texts(ticket.slot, ticket.campaign_id, ticket.creative_id)
    return signer.sign(ticket.impression_id, names, ticket.expires_s).decode()


@pytest.fixture
def signer() -> Signer:
    return Signer(KeyRing(1, {0: b"p" * 32, 1: b"k" * 32}))


@given(st.binary(min_size=16, max_size=16), NAMES, NAMES, NAMES, st.integers(1, 2**32 - 1))
def test_a_token_says_what_was_signed(impression: bytes, slot: str, campaign: str, creative: str, expires: int) -> None:
    signer = Signer(KeyRing(200, {200: b"k" * 32}))
    ticket = Ticket(impression, slot, campaign, creative, expires)
    assert signer.verify(_sign(signer, ticket), now_s=expires - 1) == ticket


def test_the_signature_is_hmac_sha256() -> None:
    for key, text in ((b"k" * 32, b"text"), (b"\0", b""), (b"x" * 64, b"y" * 1000)):
        assert _mac(key, text) == hmac.new(key, text, hashlib.sha256).digest()[:16]


def test_every_changed_bit_is_a_forgery(signer: Signer) -> None:
    token = _sign(signer, TICKET)
    raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Forged):
            signer.verify(urlsafe_b64encode(bytes(changed)).rstrip(b"=").decode(), now_s=1_000)


@given(st.text(max_size=600))
@settings(max_examples=300)
def test_nonsense_is_refused(text: str) -> None:
    signer = Signer(KeyRing(1, {1: b"k" * 32}))
    with pytest.raises((Malformed, Forged)):
        signer.verify(text, now_s=0)


def test_another_spelling_of_the_same_bytes_is_refused(signer: Signer) -> None:
    token = _sign(signer, TICKET)
    for other in (
        token + "=",
        token + "==",
        " " + token,
        token + "\n",
        token.replace("-", "+").replace("_", "/") + "%",
    ):
        with pytest.raises((Malformed, Forged)):
            signer.verify(other, now_s=1_000)


def test_an_expired_token_is_told_apart_from_a_forged_one(signer: Signer) -> None:
    token = _sign(signer, TICKET)
    assert signer.verify(token, now_s=1_999) == TICKET
    with pytest.raises(Expired):
        signer.verify(token, now_s=2_000)
    with pytest.raises(Forged):
        Signer(KeyRing(1, {1: b"other" * 6})).verify(token, now_s=9_000)


def test_a_token_signed_before_a_rotation_still_verifies_and_not_after_its_key_is_gone(signer: Signer) -> None:
    token = _sign(signer, TICKET)
    signer.ring = KeyRing(2, {1: b"k" * 32, 2: b"n" * 32})
    assert signer.verify(token, now_s=1) == TICKET
    signer.ring = KeyRing(2, {2: b"n" * 32})
    with pytest.raises(Forged):
        signer.verify(token, now_s=1)


def test_a_token_holds_no_landing_page(signer: Signer) -> None:
    token = _sign(signer, TICKET)
    assert b"http" not in urlsafe_b64decode(token + "=" * (-len(token) % 4))


def test_a_second_click_on_an_impression_is_a_replay_and_a_repeated_request_is_not() -> None:
    replays = Replays()
    assert not replays.seen(b"impression", "click-1")
    assert not replays.seen(b"impression", "click-1"), "the gateway has sent it again"
    assert replays.seen(b"impression", "click-2")


def test_the_memory_of_clicks_is_bounded() -> None:
    replays = Replays(entries_max=10)
    for number in range(100):
        replays.seen(number.to_bytes(2, "big"), "x")
    assert len(replays._first) == 10


def test_all_nodes_of_a_zone_share_the_ring_that_the_first_one_made(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as nodes:
        rings = list(nodes.map(lambda _: keys.load_or_create(tmp_path / "keys"), range(32)))
    assert all(ring == rings[0] for ring in rings)
    assert stat.S_IMODE((tmp_path / "keys" / "1.key").stat().st_mode) == 0o600
    assert not [path for path in (tmp_path / "keys").iterdir() if path.name.startswith(".")]


def test_a_rotation_keeps_the_key_before(tmp_path: Path) -> None:
    first = keys.load_or_create(tmp_path)
    second = keys.rotate(tmp_path, settle_s=0)
    third = keys.rotate(tmp_path, settle_s=0)
    assert (second.current, set(second.keys)) == (2, {1, 2})
    assert second.keys[1] == first.keys[1]
    assert (third.current, set(third.keys)) == (3, {2, 3})


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    keys.load_or_create(tmp_path)
    (tmp_path / "1.key").chmod(0o644)
    with pytest.raises(ClickKeysError, match="chmod 600"):
        keys.load(tmp_path)
