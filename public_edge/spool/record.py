"""Framing of one record in a segment.

    marker 4 bytes | CRC32C 4 | length 4 | sequence 8 | payload            (little-endian)

The checksum (RFC 3720, appendix B.4) covers everything after itself. The marker lets a reader find the next record
behind a damaged one without trying every byte.
"""

import struct
from typing import NamedTuple

import google_crc32c

MARKER = b"\xa5ISR"
PAYLOAD_BYTES_MAX = 1 << 16

_PREFIX = struct.Struct("<4sI")
_BODY = struct.Struct("<IQ")
HEADER_BYTES = _PREFIX.size + _BODY.size


class Record(NamedTuple):
    sequence: int
    payload: bytes


def encode(sequence: int, payload: bytes) -> bytes:
    body = _BODY.pack(len(payload), sequence) + payload
    return _PREFIX.pack(MARKER, google_crc32c.value(body)) + body


def decode(buffer: bytes, offset: int) -> tuple[Record, int] | None:
    """The record at `offset` and the offset behind it; None if there is no whole and sound record there."""
    body_at = offset + _PREFIX.size
    payload_at = offset + HEADER_BYTES
    if payload_at > len(buffer):
        return None
    marker, checksum = _PREFIX.unpack_from(buffer, offset)
    if marker != MARKER:
        return None
    length, sequence = _BODY.unpack_from(buffer, body_at)
    end = payload_at + length
    if length > PAYLOAD_BYTES_MAX or end > len(buffer) or google_crc32c.value(buffer[body_at:end]) != checksum:
        return None
    return Record(sequence, buffer[payload_at:end]), end


def resume(buffer: bytes, offset: int) -> int | None:
    """Where the next sound record behind `offset` begins; None if there is none."""
    at = buffer.find(MARKER, offset + 1)
    while at >= 0:
        if decode(buffer, at) is not None:
            return at
        at = buffer.find(MARKER, at + 1)
    return None
