"""Looks for personal values where none may be: in what the public zone writes to disk."""

from collections.abc import Iterable, Sequence
from pathlib import Path

CHUNK_BYTES = 1 << 20
FILE_BYTES_MAX = 1 << 30


def sightings(directories: Iterable[Path], values: Sequence[bytes]) -> list[str]:
    """`<file>: <n-th value>` for each value that stands in a file as it is. What is compressed is not looked into."""
    found = []
    for directory in directories:
        files = [directory] if directory.is_file() else sorted(directory.rglob("*"))
        for file in files:
            if file.is_file() and not file.is_symlink() and file.stat().st_size <= FILE_BYTES_MAX:
                found += [f"{file}: value {n}" for n, value in enumerate(values) if _holds(file, value)]
    return found


def _holds(file: Path, value: bytes) -> bool:
    tail = b""
    try:
        with file.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                if value in tail + chunk:
                    return True
                tail = chunk[-len(value) :]
    except OSError:
        # A socket, or a file that has just been removed.
        return False
    return False
