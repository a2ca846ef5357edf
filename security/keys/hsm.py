"""A hardware security module by PKCS#11 (OASIS PKCS #11 3.0) as the KMS: keys are made in it and never leave it.

Versions of the KEK are AES-256 keys of one label, whose CKA_ID is the version; LABEL-index is a generic secret from
which the keys of blind indexes are made. All are sensitive and not extractable. A token has no room for a count of what
its keys did and none for the time of their making, so both lie in files beside (`wraps.py`).
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import EncryptedDataInvalid, PKCS11Error

from mesh.files import PRIVATE_MODE, read_key_file, write_file
from security.keys.aead import KEY_BYTES, NONCE_BYTES, TAG_BYTES
from security.keys.errors import EnvelopeMalformed, EnvelopeRejected, KekUnknown, KeyringBusy, KmsAway, KmsRefused
from security.keys.port import KekRef
from security.keys.wraps import WrapLedger, locked

T = TypeVar("T")
CALL_S_MAX: Final = 5.0
_VERSION_BYTES: Final = 4
_SEALED_KEY_BYTES: Final = NONCE_BYTES + KEY_BYTES + TAG_BYTES
_CLOSED: Final = {
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.MODIFIABLE: False,
}


class HsmKms:
    """A `Kms`. One session, used by one thread: what a session does is one thing at a time.

    state: a file of this machine; beside it lie the count of wraps and the lock under which keys are made.
    """

    def __init__(self, module: Path, token: str, label: str, pin_file: Path, state: Path) -> None:
        self.id = f"hsm-{token}-{label}"
        self._module = module
        self._token = token
        self._label = label
        self._pin_file = pin_file
        self._state = state
        self._wraps = WrapLedger(state.with_suffix(".wraps"))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hsm")
        self._session: Any = None

    async def open(self) -> None:
        """Log in; the first process to do so makes the keys. Raises KmsRefused or KmsAway."""
        await self._run(self._make)

    async def held(self) -> Sequence[KekRef]:
        return [KekRef(self.id, version) for version in await self._run(lambda: sorted(self._keks()))]

    async def wrap(self, key: bytes, context: bytes) -> tuple[KekRef, bytes]:
        return await self._run(lambda: self._wrap(key, context))

    async def unwrap(self, kek: KekRef, ciphertext: bytes, context: bytes) -> bytes:
        if kek.id != self.id:
            raise KekUnknown(str(kek))
        if len(ciphertext) != _SEALED_KEY_BYTES:
            raise EnvelopeMalformed("its wrapped key has a wrong length")
        return await self._run(lambda: self._unwrap(kek, ciphertext, context))

    async def rotate(self, newest_version: int) -> KekRef:
        await self._run(lambda: self._add(newest_version))
        return (await self.held())[-1]

    async def retire(self, versions: Collection[int], settled_s: float) -> Sequence[int]:
        return await self._run(lambda: self._destroy(versions, settled_s))

    async def index_key(self, name: str) -> bytes:
        return await self._run(lambda: self._index_key(name))

    async def close(self) -> None:
        await self._run(self._log_out)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        """In the session's thread. A session that failed is opened anew by the next call."""
        try:
            async with asyncio.timeout(CALL_S_MAX):
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._tried, work)
        except TimeoutError:
            raise KmsAway("the module does not answer") from None

    def _tried(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except PKCS11Error as error:
            # Whatever is wrong with the session is known.
            with contextlib.suppress(PKCS11Error):
                self._log_out()
            raise KmsAway(type(error).__name__) from None

    def _log_out(self) -> None:
        """While a session is open, nobody in this process can log in again."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _open(self) -> Any:
        if self._session is None:
            pin = read_key_file(self._pin_file).decode().strip()
            try:
                module = pkcs11.lib(str(self._module))
            except RuntimeError as error:
                raise KmsRefused(f"{self._module} is no module: {error}", "Name the module's library.") from None
            try:
                self._session = module.get_token(token_label=self._token).open(rw=True, user_pin=pin)
            except (pkcs11.exceptions.PinIncorrect, pkcs11.exceptions.PinLocked):
                raise KmsRefused("the PIN is wrong", f"Write the token's PIN into {self._pin_file}.") from None
            except pkcs11.exceptions.NoSuchToken:
                raise KmsRefused(f"there is no token {self._token}", "Initialise the token, or name another.") from None
        return self._session

    def _find(self, label: str) -> list[Any]:
        wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: label}
        return list(self._open().get_objects(wanted))

    def _keks(self) -> dict[int, Any]:
        found = self._find(self._label)
        keks = {int.from_bytes(each.id, "big"): each for each in found}
        if len(keks) != len(found) or any(each[Attribute.EXTRACTABLE] for each in found):
            remedy = "Look at the token: somebody else made keys of this label."
            raise KmsRefused(f"keys of the label {self._label} are of one version, or extractable", remedy)
        return keks

    def _make(self) -> None:
        with locked(self._state):
            if not self._find(f"{self._label}-index"):
                self._open().generate_key(
                    KeyType.GENERIC_SECRET,
                    KEY_BYTES * 8,
                    label=f"{self._label}-index",
                    store=True,
                    capabilities=MechanismFlag.SIGN,
                    template=_CLOSED,
                )
            if not self._keks():
                self._generate(1)

    def _generate(self, version: int) -> None:
        self._open().generate_key(
            KeyType.AES,
            KEY_BYTES * 8,
            id=version.to_bytes(_VERSION_BYTES, "big"),
            label=self._label,
            store=True,
            capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
            template=_CLOSED,
        )
        write_file(self._state, f"{time.time():.0f}\n".encode(), PRIVATE_MODE)

    def _add(self, newest_version: int) -> None:
        with locked(self._state):
            if max(self._keks()) == newest_version:
                self._generate(newest_version + 1)

    def _wrap(self, key: bytes, context: bytes) -> tuple[KekRef, bytes]:
        keks = self._keks()
        newest = KekRef(self.id, max(keks))
        self._wraps.spend(newest)
        nonce = os.urandom(NONCE_BYTES)
        sealed = keks[newest.version].encrypt(key, mechanism=Mechanism.AES_GCM, mechanism_param=_gcm(nonce, context))
        return newest, nonce + sealed

    def _unwrap(self, kek: KekRef, ciphertext: bytes, context: bytes) -> bytes:
        key = self._keks().get(kek.version)
        if key is None:
            raise KekUnknown(str(kek))
        nonce, sealed = ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:]
        try:
            opened: bytes = key.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=_gcm(nonce, context))
        except (EncryptedDataInvalid, pkcs11.exceptions.GeneralError):
            # Modules differ in how they say that a tag does not fit.
            raise EnvelopeRejected from None
        return opened

    def _destroy(self, versions: Collection[int], settled_s: float) -> Sequence[int]:
        with locked(self._state):
            keks = self._keks()
            doomed = sorted(set(versions) & keks.keys() - {max(keks)})
            if doomed and time.time() - self._state.stat().st_mtime < settled_s:
                raise KeyringBusy(settled_s)
            for version in doomed:
                keks[version].destroy()
        return doomed

    def _index_key(self, name: str) -> bytes:
        (secret,) = self._find(f"{self._label}-index")
        made: bytes = secret.sign(b"blind-index:" + name.encode(), mechanism=Mechanism.SHA256_HMAC)
        return made


def _gcm(nonce: bytes, context: bytes) -> GCMParams:
    return GCMParams(nonce, context, TAG_BYTES * 8)
