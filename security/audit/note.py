"""Signed notes after C2SP signed-note 1.0: text, and below it the signatures of those who stand for it (Ed25519)."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mesh.errors import FailedPrecondition
from security.identity.files import CERTIFICATE_MODE, DIRECTORY_MODE, KEY_MODE, read_file, read_key_file, write_file

_ED25519: Final = b"\x01"
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

    name: str
    key: bytes

    @classmethod
    def parse(cls, text: str) -> "Verifier":
        """From NAME+ID+BASE64. Raises KeyMalformed."""
        name, key = _parsed(_VERIFIER, text, "the public key")
        verifier = cls(name, key)
        if str(verifier) != text.rstrip("\n"):
            raise KeyMalformed("the public key")
        return verifier

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.key).digest()[:_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.key).decode()}"

    def open(self, note: str) -> str:
        """The text of `note`, once the signature over it is found good. Raises NoteRejected."""
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
                try:
                    Ed25519PublicKey.from_public_bytes(self.key).verify(signature[_ID_BYTES:], text.encode())
                except InvalidSignature:
                    raise NoteRejected("the signature does not fit the text") from None
                return text
        raise WrongKey(f"it is not signed by {self.name}+{self.id.hex()}")


class Signer:
    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.verifier = Verifier(name, key.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> "Signer":
        """From PRIVATE+KEY+NAME+ID+BASE64, as Go's note package writes it. Raises KeyMalformed."""
        name, key = _parsed(_SIGNER, text, "the private key")
        return cls(name, Ed25519PrivateKey.from_private_bytes(key))

    @classmethod
    def open_or_create(cls, path: Path, name: str) -> "Signer":
        """The signer kept at `path`; the first to ask makes it, 0600, and its public key beside it (`.pub`)."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
        if not path.exists():
            signer = cls(name, Ed25519PrivateKey.generate())
            write_file(path, signer._text().encode(), KEY_MODE)
        signer = cls.parse(read_key_file(path).decode(errors="replace"))
        public = f"{signer.verifier}\n".encode()
        if not path.with_suffix(".pub").exists() or read_file(path.with_suffix(".pub")) != public:
            write_file(path.with_suffix(".pub"), public, CERTIFICATE_MODE)
        return signer

    def sign(self, text: str) -> str:
        """`text`, which ends in a newline, as a signed note."""
        if not text.endswith("\n"):
            raise ValueError("the text of a note ends in a newline")
        signature = base64.b64encode(self.verifier.id + self._key.sign(text.encode())).decode()
        return f"{text}\n— {self.verifier.name} {signature}\n"

    def _text(self) -> str:
        key = base64.b64encode(_ED25519 + self._key.private_bytes_raw()).decode()
        return f"PRIVATE+KEY+{self.verifier.name}+{self.verifier.id.hex()}+{key}\n"


def _parsed(pattern: re.Pattern[str], text: str, what: str) -> tuple[str, bytes]:
    match = pattern.fullmatch(text)
    try:
        key = base64.b64decode(match["key"], validate=True) if match else b""
    except binascii.Error:
        key = b""
    if match is None or len(key) != 1 + _KEY_BYTES or key[:1] != _ED25519:
        raise KeyMalformed(what)
    return match["name"], key[1:]
