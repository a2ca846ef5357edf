"""The click URLs of ads: where the rooms of ads and clicks meet."""

from functools import lru_cache

from public_edge.ads.domain import Creative
from public_edge.clicks import http
from public_edge.clicks.domain import Signer, texts

_slot = lru_cache(1024)(texts)


class SignedClickUrls:
    """browser_url: how a browser reaches the edge. ttl_s: how long a link is good."""

    def __init__(self, signer: Signer, browser_url: str, ttl_s: int) -> None:
        self._signer = signer
        self._base = (browser_url + http.PREFIX).encode()
        self._ttl_s = ttl_s

    def part(self, creative: Creative) -> bytes:
        return texts(creative.campaign_id, creative.creative_id)

    def url(self, slot: str, impression_id: bytes, part: bytes, now_us: int) -> bytes:
        return self._base + self._signer.sign(impression_id, _slot(slot) + part, now_us // 1_000_000 + self._ttl_s)
