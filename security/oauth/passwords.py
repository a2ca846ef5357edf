"""Argon2id hashes of passwords and client secrets, with the work of checking them bounded."""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# OWASP's least setting with 19 MiB: at most CONCURRENT_MAX of them at a time, so at most 76 MiB.
MEMORY_KIB = 19 * 1024
PASSES = 2
CONCURRENT_MAX = 4

CACHE_ENTRIES_MAX = 1024
CACHE_S = 60.0


class PasswordChecker:
    """Makes and checks argon2id hashes. Blocks for tens of milliseconds: call it from a thread."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=1)
        self._running = threading.BoundedSemaphore(CONCURRENT_MAX)
        # Checked in place of an unknown login's hash, so that the time of the answer tells nobody which logins exist.
        self._decoy = self._hasher.hash(secrets.token_urlsafe(16))

    def hash(self, password: str) -> str:
        with self._running:
            return self._hasher.hash(password)

    def check(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is the hash's. Without a hash the work is done all the same and the answer is no."""
        with self._running:
            try:
                return self._hasher.verify(password_hash or self._decoy, password) and password_hash is not None
            except (VerificationError, InvalidHashError):
                return False


class SecretChecker:
    """Checks client secrets; a good one is remembered for a minute, so that not every token request costs a hash.

    What is remembered is an HMAC under a key of this process alone, and it covers the stored hash: a changed secret
    is never accepted from memory. Safe for threads.
    """

    def __init__(self, passwords: PasswordChecker) -> None:
        self._passwords = passwords
        self._key = secrets.token_bytes(32)
        self._good: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, secret_hash: str, secret: str) -> bool:
        mark = hmac.digest(self._key, f"{secret_hash}\0{secret}".encode(), hashlib.sha256)
        now = time.monotonic()
        with self._lock:
            if self._good.get(mark, 0.0) > now:
                return True
        if not self._passwords.check(secret_hash, secret):
            return False
        with self._lock:
            self._good[mark] = now + CACHE_S
            self._good.move_to_end(mark)
            while len(self._good) > CACHE_ENTRIES_MAX:
                self._good.popitem(last=False)
        return True
