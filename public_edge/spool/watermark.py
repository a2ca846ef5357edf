"""The highest sequence up to which Kafka has acknowledged everything, kept beside the segments."""

import os
import struct
from pathlib import Path

import google_crc32c

from public_edge.spool.segment import sync_directory

_RECORD = struct.Struct("<QI")
_SEQUENCE = struct.Struct("<Q")


def load(directory: Path) -> int:
    """0 when there is none or it is damaged: then everything still on the disk is sent again, and the sink drops it."""
    try:
        raw = (directory / "watermark").read_bytes()
    except FileNotFoundError:
        return 0
    if len(raw) != _RECORD.size:
        return 0
    sequence, checksum = _RECORD.unpack(raw)
    return int(sequence) if google_crc32c.value(_SEQUENCE.pack(sequence)) == checksum else 0


def save(directory: Path, sequence: int) -> None:
    """Durable on return: a segment may be removed only after this."""
    fresh = directory / "watermark.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, _RECORD.pack(sequence, google_crc32c.value(_SEQUENCE.pack(sequence))))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(directory / "watermark")
    sync_directory(directory)
