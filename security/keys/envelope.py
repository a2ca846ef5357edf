"""The envelope of one encrypted value, as it lies in a column.

    version u8 | suite u8 | length u8, KEK id | KEK version u32 | data key id 16 | nonce 12 | ciphertext and tag

Numbers are big-endian. The data key itself is not in it: it is stored once per data subject, wrapped, under its id.
Destroying that one row makes every copy of the subject's values unreadable, backups included. The KEK named here is the
one that wrapped the data key when the value was sealed; it tells which keyring a stray value belongs to.

Associated data is the header and the place (tenant, table, column, row, field version), each part with its length: a
value that is copied to any other place does not open there.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag

from security.keys.aead import NONCE_BYTES, TAG_BYTES, Aead
from security.keys.errors import EnvelopeMalformed, EnvelopeRejected, EnvelopeUnsupported
from security.keys.port import KekRef

VERSION: Final = 1
AES_256_GCM: Final = 1
KEY_ID_BYTES: Final = 16
KEK_ID_BYTES_MAX: Final = 255
# Beside the KEK's id: version, suite, length; KEK version; data key id.
_HEADER_BYTES: Final = 3 + 4 + KEY_ID_BYTES
_SEALED_BYTES_MIN: Final = NONCE_BYTES + TAG_BYTES
_FORMAT: Final = bytes((VERSION, AES_256_GCM))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value belongs. It opens nowhere else."""

    tenant: str
    table: str
    column: str
    row: str
    # Grows when the meaning or the form of the field's plaintext changes.
    field_version: int = 1

    def encoded(self) -> bytes:
        return encode_parts(self.tenant, self.table, self.column, self.row, str(self.field_version))


class Envelope(bytes):
    """One envelope is its bytes. Its parts are read off when asked for: most are only stored and opened.

    Made of bytes that somebody here put together; those of others are `parse`d.
    """

    __slots__ = ()

    @property
    def end(self) -> int:
        """Where the header ends."""
        return self[2] + _HEADER_BYTES

    @property
    def kek(self) -> KekRef:
        version_at = self.end - KEY_ID_BYTES - 4
        (version,) = struct.unpack_from(">I", self, version_at)
        return KekRef(self[3:version_at].decode("ascii"), version)

    @property
    def key_id(self) -> bytes:
        return self[self.end - KEY_ID_BYTES : self.end]

    @property
    def nonce(self) -> bytes:
        return self[self.end : self.end + NONCE_BYTES]

    @property
    def sealed(self) -> bytes:
        """Ciphertext and tag."""
        return self[self.end + NONCE_BYTES :]

    @classmethod
    def parse(cls, data: bytes) -> "Envelope":
        """Read an envelope. Raises EnvelopeMalformed when truncated, EnvelopeUnsupported when from the future."""
        kek_bytes = data[2] if len(data) > 2 else 0
        end = kek_bytes + _HEADER_BYTES
        whole = len(data) >= end + _SEALED_BYTES_MIN and data[3 : 3 + kek_bytes].isascii()
        if not whole or data[:2] != _FORMAT:
            raise cls._fault(data, end)
        return cls(data)

    @staticmethod
    def _fault(data: bytes, end: int) -> EnvelopeMalformed | EnvelopeUnsupported:
        """What is wrong with bytes that are no envelope."""
        if len(data) < 3:
            return EnvelopeMalformed("it is shorter than its header")
        if data[0] != VERSION:
            return EnvelopeUnsupported(f"envelope version {data[0]}")
        if data[1] != AES_256_GCM:
            return EnvelopeUnsupported(f"cipher suite {data[1]}")
        if len(data) < end + _SEALED_BYTES_MIN:
            return EnvelopeMalformed("it is shorter than its header says")
        return EnvelopeMalformed("its KEK id is not ASCII")


class DataKey:
    """The key of one data subject. Seals and opens that subject's values only."""

    __slots__ = ("_aead", "_end", "_header", "_middle", "key_id")

    def __init__(self, key_id: bytes, kek: KekRef, key: bytes) -> None:
        self.key_id = key_id
        self._header = header(kek, key_id)
        # Where the nonce begins and where it ends, in what is sealed now.
        self._end = len(self._header)
        self._middle = self._end + NONCE_BYTES
        self._aead = Aead(key)

    def seal(self, plaintext: bytes, place: Place) -> Envelope:
        """Raises KeyExhausted."""
        return self.seal_each([(plaintext, place.encoded())])[0]

    def open(self, stored: bytes, place: Place) -> bytes:
        """Raises EnvelopeRejected for a value of another subject, another place, or an altered one; else as `parse`."""
        return self.open_at(stored, place.encoded())

    def seal_each(self, values: Sequence[tuple[bytes, bytes]]) -> list[Envelope]:
        """`seal` for the values of a row at once, each a plaintext and its encoded place."""
        header, encrypt, sealed, at = self._header, self._aead.encrypt, [], 0
        # Together: to ask the system takes as long as to encrypt.
        nonces = self._aead.nonces(len(values))
        for plaintext, place in values:
            nonce = nonces[at : at + NONCE_BYTES]
            at += NONCE_BYTES
            sealed.append(Envelope(header + nonce + encrypt(nonce, plaintext, header + place)))
        return sealed

    def open_at(self, stored: bytes, place: bytes) -> bytes:
        """`open` for whoever has the place encoded already."""
        header, end, middle = self._header, self._end, self._middle
        if stored[:end] != header:
            # As it was when the value was sealed: the data key may have been wrapped under another KEK since.
            envelope = Envelope.parse(stored)
            end = envelope.end
            header, middle = envelope[:end], end + NONCE_BYTES
            if envelope.key_id != self.key_id:
                raise EnvelopeRejected
        try:
            return self._aead.decrypt(stored[end:middle], stored[middle:], header + place)
        except (InvalidTag, ValueError):
            # Cut short, the nonce included, or whole and of another place. The cause would say no more.
            Envelope.parse(stored)
            raise EnvelopeRejected from None


def header(kek: KekRef, key_id: bytes) -> bytes:
    """The envelope's bytes before its nonce."""
    kek_id = kek.id.encode("ascii")
    if not 0 < len(kek_id) <= KEK_ID_BYTES_MAX or len(key_id) != KEY_ID_BYTES:
        raise ValueError("a KEK id has 1 to 255 ASCII bytes and a data key id 16")
    return bytes((VERSION, AES_256_GCM, len(kek_id))) + kek_id + struct.pack(">I", kek.version) + key_id


def encode_parts(*parts: str) -> bytes:
    """Join strings so that no two different lists give the same bytes."""
    return b"".join(map(encode_part, parts))


def encode_part(part: str) -> bytes:
    """One of them, with its length before it."""
    encoded = part.encode()
    return len(encoded).to_bytes(4, "big") + encoded
