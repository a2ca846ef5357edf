"""Notices that a file was put in place, by the kernel's word (inotify(7)): looking again and again never ends."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from asyncinotify import Inotify, Mask

from mesh.logs import logger

# Put in place by a rename, as `mesh.files` and Kubernetes do it, or written where it lies.
_PUT: Final = Mask.MOVED_TO | Mask.CLOSE_WRITE


async def changes(directory: Path, look_s: float) -> AsyncGenerator[None, None]:
    """Yield once the watch stands, then whenever a file of `directory` was put in place or written, and each `look_s`.

    The looks are for filesystems that do not tell what other machines do there, and for a kernel that has no watch
    left to give. Close it when it is not needed any more.
    """
    with contextlib.ExitStack() as watching:
        put: asyncio.Event | Inotify = asyncio.Event()
        try:
            put = watching.enter_context(Inotify())
            put.add_watch(directory, _PUT)
        except OSError as error:
            logger("control").warning("nobody tells of changes", directory=str(directory), reason=str(error))
        while True:
            yield
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(look_s):
                    await (put.get() if isinstance(put, Inotify) else put.wait())
