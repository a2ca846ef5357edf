"""A disk that is full, for one process: what it keeps is moved to a file system of its own in a file. For root.

While it is mounted the kernel says ENOSPC to whoever wants a block. What is there comes back when the disk is taken
away, also after a launcher that was killed: `recover` looks for such disks before anything starts.
"""

import errno
import os
import shutil
import subprocess
from pathlib import Path

from deploy.local.errors import LauncherError
from deploy.local.settings import Home

DEADLINE_S = 120.0
# Of ext4 itself: below this it makes no sense of its own.
BYTES_MIN = 16 << 20
# What is moved onto it may be this large.
BYTES_MAX = 4 << 30
FILLER = ".full"
BLOCK_BYTES = 1 << 20
IMAGE, ASIDE = ".disk", ".aside"


def possible() -> bool:
    return os.geteuid() == 0 and Path("/dev/loop-control").exists() and shutil.which("mkfs.ext4") is not None


def put(directory: Path, free_bytes: int) -> None:
    """Move a directory's content to a disk of its own on which so many bytes are free, mounted where it was. Whoever
    uses it must not run.

    Raises:
        LauncherError: it cannot be made, or there is too much to move; all is as it was.
    """
    used = sum(file.stat().st_blocks * 512 for file in directory.rglob("*") if file.is_file())
    if used > BYTES_MAX:
        raise LauncherError(f"{directory} holds {used >> 20} MiB, too much to move", "Choose another process")
    image, aside = _beside(directory, IMAGE), _beside(directory, ASIDE)
    try:
        with image.open("wb") as file:
            file.truncate(BYTES_MIN + used * 5 // 4 + free_bytes)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        directory.rename(aside)
        directory.mkdir(mode=0o700)
        _run("mount", "-o", "loop", str(image), str(directory))
        # A broker takes every directory for one of its own.
        (directory / "lost+found").rmdir()
        _copy(aside, directory)
        _fill(directory, free_bytes)
    except (OSError, subprocess.SubprocessError, LauncherError) as error:
        _undo(directory)
        raise LauncherError(
            f"No small disk for {directory}: {error}", "It takes root, mkfs.ext4 and loop devices"
        ) from error
    shutil.rmtree(aside)


def take(directory: Path) -> None:
    """Bring the content back to where it was, and take the disk away. Safe to be done again after being interrupted.

    Raises:
        LauncherError: something still uses it, or there is no room for what is on it; nothing is lost.
    """
    image, aside = _beside(directory, IMAGE), _beside(directory, ASIDE)
    try:
        if directory.is_mount():
            (directory / FILLER).unlink(missing_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(mode=0o700)
            _copy(directory, aside)
            _run("umount", str(directory))
        if aside.exists():
            shutil.rmtree(directory, ignore_errors=True)
            aside.rename(directory)
        image.unlink(missing_ok=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise LauncherError(f"The small disk at {directory} stays: {error}", f"umount {directory} by hand") from error


def recover(home: Home) -> list[str]:
    """Take away every small disk that a killed launcher has left in this home. Nothing may run. Returns whose."""
    images = sorted(image for kept in ("data", "spool") for image in (home.root / kept).glob(f"*{IMAGE}"))
    found = [image.with_name(image.name.removesuffix(IMAGE)) for image in images]
    for directory in found:
        take(directory)
    return [directory.name for directory in found]


def _undo(directory: Path) -> None:
    """While the original still lies aside."""
    aside = _beside(directory, ASIDE)
    if directory.is_mount():
        _run("umount", str(directory))
    if aside.exists():
        shutil.rmtree(directory, ignore_errors=True)
        aside.rename(directory)
    _beside(directory, IMAGE).unlink(missing_ok=True)


def _fill(directory: Path, free_bytes: int) -> None:
    """Take all that is free but for so much. How much that is, only the kernel's refusal tells."""
    with (directory / FILLER).open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(BLOCK_BYTES))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        os.fsync(file.fileno())
        file.truncate(max(0, file.tell() - free_bytes))


def _copy(from_: Path, to: Path) -> None:
    _run("cp", "--archive", f"{from_}/.", str(to))
    os.sync()


def _beside(directory: Path, ending: str) -> Path:
    return directory.with_name(directory.name + ending)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
