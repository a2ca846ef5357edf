"""The envelope of one encrypted value, as it lies in a column.

    version u8 | suite u8 | length u8, KEK id | KEK version u32 | data key id 16 | nonce 12 | ciphertext and tag

Numbers are big-endian. The data key itself is not in it: it is stored once per data subject, wrapped, under its id.
Destroying that one row makes every copy of the subject's values unreadable, backups included. The KEK named here is the
one that wrapped the data key when the value was sealed; it tells which keyring a stray value belongs to.

Associated data is the header and the place (tenant, table, column, row, field version), each part with its length: a
value that is copied to any other place does not open there.
"""

import struct
from dataclasses import dataclass
from typing import Final

from security.keys.aead import NONCE_BYTES, TAG_BYTES, Aead
from security.keys.errors import EnvelopeMalformed, EnvelopeRejected, EnvelopeUnsupported
from security.keys.port import KekRef

VERSION: Final = 1
AES_256_GCM: Final = 1
KEY_ID_BYTES: Final = 16
KEK_ID_BYTES_MAX: Final = 255


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


@dataclass(frozen=True, slots=True)
class Envelope:
    kek: KekRef
    key_id: bytes
    nonce: bytes
    # Ciphertext and tag.
    sealed: bytes

    def to_bytes(self) -> bytes:
        return header(self.kek, self.key_id) + self.nonce + self.sealed

    @classmethod
    def parse(cls, data: bytes) -> "Envelope":
        """Read an envelope. Raises EnvelopeMalformed when truncated, EnvelopeUnsupported when from the future."""
        if len(data) < 3:
            raise EnvelopeMalformed("it is shorter than its header")
        version, suite, kek_bytes = data[:3]
        if version != VERSION:
            raise EnvelopeUnsupported(f"envelope version {version}")
        if suite != AES_256_GCM:
            raise EnvelopeUnsupported(f"cipher suite {suite}")
        end = 3 + kek_bytes + 4 + KEY_ID_BYTES
        if len(data) < end + NONCE_BYTES + TAG_BYTES:
            raise EnvelopeMalformed("it is shorter than its header says")
        try:
            kek_id = data[3 : 3 + kek_bytes].decode("ascii")
        except UnicodeDecodeError:
            raise EnvelopeMalformed("its KEK id is not ASCII") from None
        (kek_version,) = struct.unpack_from(">I", data, 3 + kek_bytes)
        return cls(
            kek=KekRef(kek_id, kek_version),
            key_id=data[end - KEY_ID_BYTES : end],
            nonce=data[end : end + NONCE_BYTES],
            sealed=data[end + NONCE_BYTES :],
        )


class DataKey:
    """The key of one data subject. Seals and opens that subject's values only."""

    __slots__ = ("_aead", "_header", "_kek", "key_id")

    def __init__(self, key_id: bytes, kek: KekRef, key: bytes) -> None:
        self.key_id = key_id
        self._kek = kek
        self._header = header(kek, key_id)
        self._aead = Aead(key)

    def seal(self, plaintext: bytes, place: Place) -> Envelope:
        nonce, sealed = self._aead.seal(plaintext, self._header + place.encoded())
        return Envelope(self._kek, self.key_id, nonce, sealed)

    def open(self, envelope: Envelope, place: Place) -> bytes:
        """Raises EnvelopeRejected for a value of another subject, another place, or an altered one."""
        if envelope.key_id != self.key_id:
            raise EnvelopeRejected
        associated = header(envelope.kek, envelope.key_id) + place.encoded()
        return self._aead.open(envelope.nonce, envelope.sealed, associated)


def header(kek: KekRef, key_id: bytes) -> bytes:
    """The envelope's bytes before its nonce."""
    kek_id = kek.id.encode("ascii")
    if not 0 < len(kek_id) <= KEK_ID_BYTES_MAX or len(key_id) != KEY_ID_BYTES:
        raise ValueError("a KEK id has 1 to 255 ASCII bytes and a data key id 16")
    return bytes((VERSION, AES_256_GCM, len(kek_id))) + kek_id + struct.pack(">I", kek.version) + key_id


def encode_parts(*parts: str) -> bytes:
    """Join strings so that no two different lists give the same bytes."""
    encoded = [part.encode() for part in parts]
    return b"".join(struct.pack(">I", len(part)) + part for part in encoded)
