"""Signed notes after C2SP signed-note 1.0: text, and below it the signatures of those who stand for it (Ed25519)."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Generic, Self, TypeVar, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mesh.errors import FailedPrecondition
from mesh.files import DIRECTORY_MODE, PRIVATE_MODE, PUBLIC_MODE, read_file, read_key_file, write_file

_KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
_NAME: Final = r"[^\s+]+"
_SIGNATURE: Final = re.compile(rf"— (?P<name>{_NAME}) (?P<signature>[A-Za-z0-9+/=]+)\n")
_VERIFIER: Final = re.compile(rf"(?P<name>{_NAME})\+(?P<id>[0-9a-f]{{8}})\+(?P<key>[A-Za-z0-9+/=]+)\n?")
_SIGNER: Final = re.compile(rf"PRIVATE\+KEY\+(?P<name>{_NAME})\+(?P<id>[0-9a-f]{{8}})\+(?P<key>[A-Za-z0-9+/=]+)\n?")


class NoteRejected(Exception):
    """The note is not signed by the key that was asked for, or is no note at all."""


class WrongKey(NoteRejected):
    """No signature of the note is by this key."""


class KeyMalformed(FailedPrecondition):
    def __init__(self, what: str) -> None:
        super().__init__(
            "NOTE_KEY_MALFORMED", f"{what} is no key of signed notes", remedy="Restore the file from its backup."
        )


@dataclass(frozen=True)
class Verifier:
    """Whose signature is asked for. Its text form is what the note tools call a verifier key."""

    # What the note's signature type byte says of the key and of what is signed with it.
    TYPE: ClassVar[bytes] = b"\x01"

    name: str
    key: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """From NAME+ID+BASE64. Raises KeyMalformed."""
        name, key = _parsed(_VERIFIER, text, cls.TYPE, "the public key")
        verifier = cls(name, key)
        if str(verifier) != text.rstrip("\n"):
            raise KeyMalformed("the public key")
        return verifier

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + self.TYPE + self.key).digest()[:_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self.TYPE + self.key).decode()}"

    def open(self, note: str) -> str:
        """The text of `note`, once the signature over it is found good. Raises NoteRejected."""
        text, signature = self._find(note)
        self._check(signature, text.encode())
        return text

    def _find(self, note: str) -> tuple[str, bytes]:
        """The text, and what this key's signature line holds behind the key's id."""
        text, separator, signatures = note.rpartition("\n\n")
        if not separator:
            raise NoteRejected("a signed note has a blank line between text and signatures")
        text += "\n"
        for match in _SIGNATURE.finditer(signatures):
            try:
                signature = base64.b64decode(match["signature"], validate=True)
            except binascii.Error:
                raise NoteRejected("a signature is not in base64") from None
            if match["name"] == self.name and signature[:_ID_BYTES] == self.id:
                return text, signature[_ID_BYTES:]
        raise WrongKey(f"it is not signed by {self.name}+{self.id.hex()}")

    def _check(self, signature: bytes, message: bytes) -> None:
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
        except InvalidSignature:
            raise NoteRejected("the signature does not fit the text") from None


V = TypeVar("V", bound=Verifier)


class KeyHolder(Generic[V]):
    """A private key, and the form in which it is kept. What it signs with the key is the subclass' matter."""

    VERIFIER: ClassVar[type[Verifier]]

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.verifier = cast(V, self.VERIFIER(name, key.public_key().public_bytes_raw()))

    @classmethod
    def parse(cls, text: str) -> Self:
        """From PRIVATE+KEY+NAME+ID+BASE64, as Go's note package writes it. Raises KeyMalformed."""
        name, key = _parsed(_SIGNER, text, cls.VERIFIER.TYPE, "the private key")
        return cls(name, Ed25519PrivateKey.from_private_bytes(key))

    @classmethod
    def open_or_create(cls, path: Path, name: str) -> Self:
        """The signer kept at `path`; the first to ask makes it, 0600, and its public key beside it (`.pub`)."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
        if not path.exists():
            signer = cls(name, Ed25519PrivateKey.generate())
            write_file(path, signer._text().encode(), PRIVATE_MODE)
        signer = cls.parse(read_key_file(path).decode(errors="replace"))
        public = f"{signer.verifier}\n".encode()
        if not path.with_suffix(".pub").exists() or read_file(path.with_suffix(".pub")) != public:
            write_file(path.with_suffix(".pub"), public, PUBLIC_MODE)
        return signer

    def _text(self) -> str:
        key = base64.b64encode(self.verifier.TYPE + self._key.private_bytes_raw()).decode()
        return f"PRIVATE+KEY+{self.verifier.name}+{self.verifier.id.hex()}+{key}\n"


class Signer(KeyHolder[Verifier]):
    VERIFIER = Verifier

    def sign(self, text: str) -> str:
        """`text`, which ends in a newline, as a signed note."""
        if not text.endswith("\n"):
            raise ValueError("the text of a note ends in a newline")
        signature = base64.b64encode(self.verifier.id + self._key.sign(text.encode())).decode()
        return f"{text}\n— {self.verifier.name} {signature}\n"


def _parsed(pattern: re.Pattern[str], text: str, kind: bytes, what: str) -> tuple[str, bytes]:
    match = pattern.fullmatch(text)
    try:
        key = base64.b64decode(match["key"], validate=True) if match else b""
    except binascii.Error:
        key = b""
    if match is None or len(key) != 1 + _KEY_BYTES or key[:1] != kind:
        raise KeyMalformed(what)
    return match["name"], key[1:]
