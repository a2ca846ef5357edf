"""What a spool does with the files that an earlier process left."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from mesh.files import sync_directory
from public_edge.spool import segment

QUARANTINE_FILES_MAX = 256


@dataclass(slots=True, eq=False)
class SegmentFile:
    path: Path
    first: int
    # Sequence of its last record; `first - 1` when it has none yet.
    last: int
    size: int


@dataclass(slots=True)
class Recovered:
    segments: list[SegmentFile] = field(default_factory=list)
    last: int = 0
    quarantined: int = 0
    torn_bytes: int = 0


def recover(directory: Path, acknowledged: int) -> Recovered:
    """Remove what is acknowledged, cut the torn tail of the newest segment, copy damaged ranges into `quarantine/`.

    A damaged range stays in its segment, where readers step over it; it is counted once, when its copy is made.
    """
    recovered = Recovered()
    paths = sorted(directory.glob("*.seg"))
    for index, path in enumerate(paths):
        newest = index == len(paths) - 1
        if not newest and int(paths[index + 1].stem) <= acknowledged + 1:
            path.unlink()
            continue
        found = segment.scan(path)
        for damage in found.damages:
            recovered.quarantined += _quarantine(path, damage.offset, damage.end)
        if found.torn and newest:
            recovered.torn_bytes += found.size - found.end
        elif found.torn:
            recovered.quarantined += _quarantine(path, found.end, found.size)
        if found.last is None or found.first is None:
            path.unlink()
            continue
        if path.stat().st_size > found.end:
            _truncate(path, found.end)
        recovered.last = max(recovered.last, found.last)
        if found.last <= acknowledged:
            path.unlink()
            continue
        recovered.segments.append(SegmentFile(path, found.first, found.last, found.end))
    sync_directory(directory)
    return recovered


def _truncate(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _quarantine(path: Path, offset: int, end: int) -> int:
    folder = path.parent / "quarantine"
    folder.mkdir(mode=0o700, exist_ok=True)
    copy = folder / f"{path.stem}-{offset}.bin"
    if copy.exists():
        return 0
    if sum(1 for _ in folder.iterdir()) < QUARANTINE_FILES_MAX:
        with path.open("rb") as source:
            source.seek(offset)
            copy.write_bytes(source.read(end - offset))
    return 1
