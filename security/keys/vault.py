"""Data keys: one per data subject, made here, stored wrapped by the caller, and kept unwrapped for a short while."""

import os
from collections import OrderedDict
from typing import Final

from mesh.clock import Clock, SystemClock
from security.keys.aead import KEY_BYTES
from security.keys.envelope import KEY_ID_BYTES, DataKey, encode_parts
from security.keys.port import Kms, WrappedKey

CACHED_KEYS_MAX: Final = 4096
# An erased subject's key may outlive its row in memory by this long, at most.
CACHED_S_MAX: Final = 60.0


class Vault:
    """Makes and unwraps data keys for one tenant. Not thread-safe: one event loop."""

    def __init__(
        self,
        kms: Kms,
        tenant: str,
        *,
        clock: Clock | None = None,
        cached_keys_max: int = CACHED_KEYS_MAX,
        cached_s_max: float = CACHED_S_MAX,
    ) -> None:
        self.tenant = tenant
        self._kms = kms
        self._clock = clock or SystemClock()
        self._cached_keys_max = cached_keys_max
        self._cached_s_max = cached_s_max
        # By the wrapped key as a whole and its subject, so that a swapped row cannot hit another's entry. Oldest first.
        self._cache: OrderedDict[tuple[WrappedKey, str], tuple[float, DataKey]] = OrderedDict()

    async def new_key(self, subject: str) -> tuple[DataKey, WrappedKey]:
        """A fresh data key for `subject`, and the form in which to store it."""
        key_id, key = os.urandom(KEY_ID_BYTES), os.urandom(KEY_BYTES)
        kek, ciphertext = await self._kms.wrap(key, self._context(subject, key_id))
        return DataKey(key_id, kek, key), WrappedKey(key_id, kek, ciphertext)

    async def key(self, wrapped: WrappedKey, subject: str) -> DataKey:
        """The data key that `new_key` made for `subject`.

        Raises KekUnknown, or EnvelopeRejected when the wrapped key is another subject's or was altered.
        """
        entry = self._cache.get((wrapped, subject))
        now = self._clock.monotonic()
        if entry is not None and now - entry[0] < self._cached_s_max:
            return entry[1]
        key = await self._kms.unwrap(wrapped.kek, wrapped.ciphertext, self._context(subject, wrapped.key_id))
        unwrapped = DataKey(wrapped.key_id, wrapped.kek, key)
        self._cache[wrapped, subject] = (now, unwrapped)
        self._cache.move_to_end((wrapped, subject))
        while self._cache and (
            len(self._cache) > self._cached_keys_max or now - next(iter(self._cache.values()))[0] >= self._cached_s_max
        ):
            self._cache.popitem(last=False)
        return unwrapped

    async def rewrap(self, wrapped: WrappedKey, subject: str) -> WrappedKey:
        """The same data key under the newest KEK. Raises as `key` does."""
        context = self._context(subject, wrapped.key_id)
        key = await self._kms.unwrap(wrapped.kek, wrapped.ciphertext, context)
        kek, ciphertext = await self._kms.wrap(key, context)
        return WrappedKey(wrapped.key_id, kek, ciphertext)

    def forget(self, subject: str) -> None:
        """Drop the keys of an erased subject from memory."""
        for entry in [entry for entry in self._cache if entry[1] == subject]:
            del self._cache[entry]

    def _context(self, subject: str, key_id: bytes) -> bytes:
        return encode_parts("data-key", self.tenant, subject, key_id.hex())
