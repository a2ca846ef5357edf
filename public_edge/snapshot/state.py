"""The newest record of each key, and the file that keeps it for a start without Kafka.

"ISSNAP01" | CRC32C of all that follows 4 | count 4 | per record: topic 1, key length 2, key, value length 4, value
"""

import struct
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path

import google_crc32c

from mesh.files import PRIVATE_MODE, write_file

MAGIC = b"ISSNAP01"
FILE_BYTES_MAX = 1 << 30
_CHECKSUM = struct.Struct("<I")
_COUNT = struct.Struct("<I")
_KEY = struct.Struct("<BH")
_VALUE = struct.Struct("<I")


class Source(IntEnum):
    """Which event a record is. Numbers are part of the file format."""

    CAMPAIGN = 1
    CONTENT_ITEM = 2

    @property
    def message(self) -> str:
        """Full name of the protobuf message."""
        return "isthmus.catalog.v1.Campaign" if self is Source.CAMPAIGN else "isthmus.catalog.v1.ContentItem"


Key = tuple[Source, str]
Records = Mapping[Key, bytes]


class SnapshotDamaged(Exception):
    """The file is not a whole snapshot."""


def save(path: Path, records: Records) -> None:
    """Replace the file in one step; durable on return. Readable by its owner only."""
    parts = [_COUNT.pack(len(records))]
    for (source, key), value in records.items():
        name = key.encode()
        parts += (_KEY.pack(source, len(name)), name, _VALUE.pack(len(value)), value)
    content = b"".join(parts)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(path, MAGIC + _CHECKSUM.pack(google_crc32c.value(content)) + content, PRIVATE_MODE)


def load(path: Path) -> dict[Key, bytes] | None:
    """None when there is no file. Raises SnapshotDamaged."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise SnapshotDamaged(f"{path} has more than {FILE_BYTES_MAX} bytes")
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    head = len(MAGIC) + _CHECKSUM.size
    content = raw[head:]
    if raw[: len(MAGIC)] != MAGIC or len(content) < _COUNT.size:
        raise SnapshotDamaged(f"{path} is no snapshot")
    if _CHECKSUM.unpack_from(raw, len(MAGIC))[0] != google_crc32c.value(content):
        raise SnapshotDamaged(f"{path} was changed since it was written")
    records: dict[Key, bytes] = {}
    at = _COUNT.size
    for _ in range(_COUNT.unpack_from(content)[0]):
        source, length = _KEY.unpack_from(content, at)
        at += _KEY.size
        key = content[at : at + length].decode()
        at += length
        (size,) = _VALUE.unpack_from(content, at)
        at += _VALUE.size
        records[Source(source), key] = content[at : at + size]
        at += size
    return records


def difference(old: Records, new: Records) -> dict[Key, bytes | None]:
    """What turns `old` into `new`; None removes."""
    changes: dict[Key, bytes | None] = {key: value for key, value in new.items() if old.get(key) != value}
    changes.update(dict.fromkeys(old.keys() - new.keys()))
    return changes
