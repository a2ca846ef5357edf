"""Click tokens: what an ad's URL carries, signed so that nobody else can make one.

    version 1 byte | key id 1 | expiry 4 (seconds since the epoch) | impression id 16
    | slot, campaign id, creative id, each 1 byte of length and its ASCII | HMAC-SHA-256 cut to 16 bytes

as base64url without padding. The landing page is not in it: it is looked up by campaign and creative, so that a token
can lead nowhere else (RFC 2104 section 5 for the cut; 128 bits stay).
"""

import binascii
import hashlib
import hmac
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

VERSION = 1
MAC_BYTES = 16
TOKEN_CHARS_MAX = 512
SEEN_MAX = 200_000
KEYS_MAX = 16
_HEAD = struct.Struct(">BBI16s")
_TO_STANDARD = str.maketrans("-_", "+/")
_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class Malformed(Exception):
    """Not a token at all."""


class Forged(Exception):
    """Not signed with a key of this zone, or changed since."""


class Expired(Exception):
    """A real token whose time is over."""


class Gone(Exception):
    """A real token whose campaign is no longer in the snapshot."""


class Ticket(NamedTuple):
    """What a token says."""

    impression_id: bytes
    slot: str
    campaign_id: str
    creative_id: str
    expires_s: int


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys, at most 64 bytes each, by id (0 to 255). The current one signs, all of them verify."""

    current: int
    keys: Mapping[int, bytes]


class Landings(Protocol):
    def landing_url(self, campaign_id: str, creative_id: str) -> str | None:
        """Where a click leads; None when the campaign or its creative is gone."""


class Signer:
    """Makes and verifies tokens. `ring` may be replaced at any time."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring

    def sign(self, impression_id: bytes, names: bytes, expires_s: int) -> bytes:
        """names: slot, campaign id and creative id by `texts`."""
        ring = self.ring
        body = _HEAD.pack(VERSION, ring.current, expires_s, impression_id) + names
        return _encode(body + _mac(ring.keys[ring.current], body))

    def verify(self, token: str, now_s: int) -> Ticket:
        """Raises Malformed, Forged or Expired."""
        raw = _decode(token)
        body, mac = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
        version, key_id, expires_s, impression_id = _HEAD.unpack_from(body)
        key = self.ring.keys.get(key_id)
        if version != VERSION or key is None or not hmac.compare_digest(_mac(key, body), mac):
            raise Forged
        slot, campaign_id, creative_id = _read_texts(body, _HEAD.size)
        if now_s >= expires_s:
            raise Expired
        return Ticket(impression_id, slot, campaign_id, creative_id, expires_s)


class Replays:
    """Remembers which click first used an impression's token. Bounded: the oldest are forgotten."""

    def __init__(self, entries_max: int = SEEN_MAX) -> None:
        self._entries_max = entries_max
        self._first: OrderedDict[bytes, str] = OrderedDict()

    def seen(self, impression_id: bytes, event_id: str) -> bool:
        """Whether another click came first. The same click repeated by a gateway has the same id and is no replay."""
        first = self._first.setdefault(impression_id, event_id)
        if len(self._first) > self._entries_max:
            self._first.popitem(last=False)
        return first != event_id


def _mac(key: bytes, body: bytes) -> bytes:
    """HMAC (RFC 2104) with both padded keys hashed ahead: a third of what `hmac.digest` takes for so short a text."""
    begun, ended = _padded(key)
    inner = begun.copy()
    inner.update(body)
    outer = ended.copy()
    outer.update(inner.digest())
    return outer.digest()[:MAC_BYTES]


@lru_cache(KEYS_MAX)
def _padded(key: bytes) -> "tuple[hashlib._Hash, hashlib._Hash]":
    block = key.ljust(hashlib.sha256().block_size, b"\0")
    return (
        hashlib.sha256(bytes(byte ^ 0x36 for byte in block)),
        hashlib.sha256(bytes(byte ^ 0x5C for byte in block)),
    )


def texts(*values: str) -> bytes:
    """Each as a token holds it. Those of a token joined are the texts of its values."""
    return b"".join([len(value).to_bytes(1, "big") + value.encode("ascii") for value in values])


def _encode(raw: bytes) -> bytes:
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URL_SAFE).rstrip(b"=")


def _read_texts(body: bytes, at: int) -> list[str]:
    found = []
    while at < len(body):
        length = body[at]
        found.append(body[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    if len(found) != 3 or at != len(body):
        raise Forged
    return found


def _decode(token: str) -> bytes:
    """The one spelling of each token is accepted: no padding, no stray characters, no unused bits."""
    if not token.isascii() or len(token) > TOKEN_CHARS_MAX or "+" in token or "/" in token or "=" in token:
        raise Malformed
    try:
        raw = binascii.a2b_base64(token.translate(_TO_STANDARD) + "=" * (-len(token) % 4), strict_mode=True)
    except binascii.Error:
        raise Malformed from None
    if len(raw) < _HEAD.size + 3 + MAC_BYTES or _encode(raw) != token.encode():
        raise Malformed
    return raw
