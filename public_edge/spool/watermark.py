"""The highest sequence up to which Kafka has acknowledged everything, kept beside the segments, with a note.

CRC32C 4 bytes | sequence 8 | note            (little-endian; the checksum covers what follows it)
"""

import struct
from pathlib import Path
from typing import NamedTuple

import google_crc32c

from mesh.files import PRIVATE_MODE, write_file

_CHECKSUM = struct.Struct("<I")
_SEQUENCE = struct.Struct("<Q")


class Watermark(NamedTuple):
    sequence: int
    # What its writer wants to know again of exactly this sequence.
    note: bytes


def load(directory: Path) -> Watermark | None:
    """None when there is none or it is damaged: then everything on the disk is sent again, and the sink drops it."""
    try:
        raw = (directory / "watermark").read_bytes()
    except FileNotFoundError:
        return None
    if len(raw) < _CHECKSUM.size + _SEQUENCE.size:
        return None
    (checksum,), content = _CHECKSUM.unpack_from(raw), raw[_CHECKSUM.size :]
    if google_crc32c.value(content) != checksum:
        return None
    return Watermark(_SEQUENCE.unpack_from(content)[0], content[_SEQUENCE.size :])


def save(directory: Path, watermark: Watermark) -> None:
    """Durable on return: a segment may be removed only after this. Raises OSError."""
    content = _SEQUENCE.pack(watermark.sequence) + watermark.note
    write_file(directory / "watermark", _CHECKSUM.pack(google_crc32c.value(content)) + content, PRIVATE_MODE)
