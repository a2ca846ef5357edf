"""The spool: one directory, one owner, one writing thread.

`append` has written the event when it returns, so that it outlives the process. It writes into the mapped pages of a
segment whose blocks were allocated ahead: they belong to the kernel as after write(2), and no system call gives the
interpreter away to other threads on every event. A second thread syncs: at once when a durable event waits, else within
`sync_interval_s` of the first unsynced event. `SpoolReader` follows what was written; `acknowledge` moves the watermark
and removes what lies wholly below it.
"""

import asyncio
import contextlib
import errno
import fcntl
import mmap
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.files import sync_directory
from public_edge.spool import record, segment, watermark
from public_edge.spool.declined import Declined
from public_edge.spool.errors import SpoolBusy, SpoolFailed, SpoolFull
from public_edge.spool.quorum import Quorum
from public_edge.spool.recovery import SegmentFile, recover
from public_edge.spool.watermark import Watermark

CLOSE_TIMEOUT_S = 5.0
# Holds a watermark with a note of many open minutes.
RESERVE_BYTES = 1 << 18


@dataclass(slots=True)
class SpoolCounters:
    # Bounded events dropped because the spool was nearly full.
    shed: int = 0
    # Durable events refused, with an error to their caller.
    refused: int = 0
    syncs: int = 0
    # Damaged ranges found when opened, and bytes cut from a torn tail.
    quarantined: int = 0
    torn_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    segment_bytes: int = 16 << 20
    bytes_max: int = 1 << 30
    # Above this share of `bytes_max` only durable events are taken.
    bounded_share: float = 0.9
    sync_interval_s: float = 0.02


class Spool:
    """Any thread may append; `synced` belongs to the event loop, reading and acknowledging to the shipper's thread."""

    def __init__(self, directory: Path, limits: SpoolLimits | None = None) -> None:
        """Open and recover. Raises SpoolBusy when another process has it, OSError when the disk does not serve."""
        self.limits = limits or SpoolLimits()
        self.counters = SpoolCounters()
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._owner = _own(directory)
        known = watermark.load(directory)
        # What the directory's events begin with when the watermark is lost is not known, so nothing is missing before.
        self.watermark_known = known is not None or not any(directory.glob("*.seg"))
        self.acknowledged, self.note = known or (0, b"")
        self._saved: Watermark | None = known
        self.quorum = Quorum(self.acknowledged)
        self.declined = Declined(directory)
        self._reserve = directory / "reserve"
        self._keep_reserve()
        recovered = recover(directory, self.acknowledged)
        self.counters.quarantined = recovered.quarantined
        self.counters.torn_bytes = recovered.torn_bytes
        self._lock = threading.Lock()
        self._appending = threading.Lock()
        self._segments: deque[SegmentFile] = deque(recovered.segments)
        # The watermark may be ahead of the disk: Kafka can acknowledge what a power cut then took from the page cache.
        self._first = self._written = self._synced = max(recovered.last, self.acknowledged)
        # Of all segments that were ever here, and how much of it is gone.
        self._bytes_sealed = sum(entry.size for entry in recovered.segments)
        self._bytes_removed = 0
        self._bounded_bytes_max = int(self.limits.bytes_max * self.limits.bounded_share)
        self._retired: list[tuple[int, int]] = []
        self._failure: BaseException | None = None
        self._closing = False
        self._dirty = False
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.arrived = threading.Event()
        # Where the newest segment ends, and up to where it takes any event without another look.
        self._end = self._free_end = 0
        self._create_segment(0)
        sync_directory(directory)
        self._thread = threading.Thread(target=self._sync_forever, name="spool-sync", daemon=True)
        self._thread.start()

    @property
    def written(self) -> int:
        """The sequence of the newest event."""
        return self._written

    @property
    def accepted(self) -> int:
        """Events written since the spool was opened."""
        return self._written - self._first

    @property
    def synced_sequence(self) -> int:
        return self._synced

    @property
    def backlog_bytes(self) -> int:
        return self._bytes_sealed + self._end - self._bytes_removed

    @property
    def backlog_events(self) -> int:
        return self._written - self.acknowledged

    def append(self, payload: bytes, *, durable: bool = False) -> int | None:
        """Write one event and return its sequence; None when it was shed.

        Raises SpoolFull for a durable event that cannot be taken, SpoolFailed when the disk has failed.
        """
        with self._appending:
            return self._write(record.encode(self._written + 1, payload), (payload,), durable)

    def append_many(self, payloads: Sequence[bytes], *, durable: bool = False) -> int | None:
        """Write a group in one step and return the sequence of its last event; None when the group was shed."""
        encode = record.encode
        with self._appending:
            first = self._written + 1
            frames = b"".join([encode(first + index, payload) for index, payload in enumerate(payloads)])
            return self._write(frames, payloads, durable)

    async def synced(self, sequence: int) -> None:
        """Return when everything up to `sequence` is on the disk. Raises SpoolFailed."""
        if self._failure is not None:
            raise SpoolFailed(str(self._failure))
        if sequence <= self._synced:
            return
        self._loop = loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiters.append((sequence, waiter))
        self._urgent.set()
        self._wake.set()
        await waiter

    def acknowledge(self, sequence: int, note: bytes | None = None) -> None:
        """Everything up to `sequence` has reached Kafka.

        Removes the segments that lie wholly below it, after saving the watermark with its note.
        """
        self.acknowledged = max(self.acknowledged, sequence)
        self.note = self.note if note is None else note
        with self._lock:
            done = []
            while len(self._segments) > 1 and self._segments[0].last <= self.acknowledged:
                done.append(self._segments.popleft())
        if done:
            self.save_watermark()
        for entry in done:
            entry.path.unlink(missing_ok=True)
            self._bytes_removed += entry.size

    def save_watermark(self) -> None:
        """Raises OSError when the disk does not take it; nothing is removed then."""
        current = Watermark(self.acknowledged, self.note)
        if self._saved == current:
            return
        try:
            watermark.save(self.directory, current)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # Without the watermark no segment may go, and without a segment's going the disk stays full.
            self._reserve.unlink(missing_ok=True)
            watermark.save(self.directory, current)
        self._saved = current
        self._keep_reserve()

    def _keep_reserve(self) -> None:
        """A little space that is given up for the watermark when the disk is full."""
        if self._reserve.exists():
            return
        with contextlib.suppress(OSError):
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            except OSError:
                self._reserve.unlink()
            finally:
                os.close(descriptor)

    def segment_behind(self, sequence: int) -> SegmentFile | None:
        """The segment that holds the first record above `sequence`; None when there is no such record yet."""
        with self._lock:
            newest = self._segments[-1]
            sealed = next((entry for entry in self._segments if entry is not newest and entry.last > sequence), None)
            return sealed or (newest if self._written > sequence else None)

    def readable_end(self, entry: SegmentFile) -> tuple[int, bool]:
        """Up to which offset a segment may be read (only what `append` has finished), and whether it is sealed."""
        with self._lock:
            return (self._end, False) if entry is self._segments[-1] else (entry.size, True)

    def close(self) -> None:
        """Sync what is written, save the watermark, release the directory. Appending afterwards is an error."""
        if self._closing:
            return
        self._closing = True
        self._free_end = 0
        self._urgent.set()
        self._wake.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._failure is None:
            self.save_watermark()
        self._pages.close()
        self.declined.close()
        os.ftruncate(self._descriptor, self._end)
        os.close(self._descriptor)
        os.close(self._owner)

    def _write(self, frames: bytes, payloads: Sequence[bytes], durable: bool) -> int | None:
        end = self._end + len(frames)
        if end > self._free_end:
            if not self._make_room(len(frames), payloads, durable):
                return None
            end = self._end + len(frames)
        self._pages[self._end : end] = frames
        self._end = end
        self._written = written = self._written + len(payloads)
        if not self._dirty:
            self._dirty = True
            self._wake.set()
        if not self.arrived.is_set():
            self.arrived.set()
        return written

    def _make_room(self, size: int, payloads: Sequence[bytes], durable: bool) -> bool:
        """Whether so many bytes may be written now. Raises SpoolFull, SpoolFailed."""
        if self._failure is not None or self._closing:
            raise SpoolFailed(str(self._failure or "closed"))
        bound = self.limits.bytes_max if durable else self._bounded_bytes_max
        if self.backlog_bytes + size > bound:
            return self._decline(payloads, durable, "the spool is at its bound")
        if self._end + size > len(self._pages):
            try:
                self._rotate(size)
            except OSError as error:
                return self._decline(payloads, durable, error.strerror or str(error))
        self._free_end = min(len(self._pages), self._end + self._bounded_bytes_max - self.backlog_bytes)
        if self._failure is not None or self._closing:
            # Whoever set it has set the end as well, perhaps just before we did.
            self._free_end = 0
        return True

    def _decline(self, payloads: Sequence[bytes], durable: bool, why: str) -> bool:
        decline = self.declined.refused if durable else self.declined.shed
        for payload in payloads:
            decline(payload[0] if payload else 0)
        if durable:
            self.counters.refused += len(payloads)
            raise SpoolFull(why)
        self.counters.shed += len(payloads)
        return False

    def _create_segment(self, room: int) -> None:
        """Begin a segment with space for at least `room` bytes. Raises OSError when the disk has none."""
        first = self._written + 1
        size = max(self.limits.segment_bytes, segment.HEADER_BYTES + room)
        path = segment.path_of(self.directory, first)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Without blocks of its own, a page could be refused when it is too late to say so.
            os.posix_fallocate(descriptor, 0, size)
            pages = mmap.mmap(descriptor, size)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        pages[: segment.HEADER_BYTES] = segment.header(first)
        self._pages, self._descriptor, self._end = pages, descriptor, segment.HEADER_BYTES
        self._free_end = 0
        self._segments.append(SegmentFile(path, first, last=first - 1, size=0))

    def _rotate(self, room: int) -> None:
        retired, pages, end = self._descriptor, self._pages, self._end
        with self._lock:
            sealed = self._segments[-1]
            self._create_segment(room)
            sealed.last, sealed.size = self._written, end
            self._bytes_sealed += end
            self._retired.append((retired, end))
        pages.close()

    def _sync_forever(self) -> None:
        while not (self._closing and self._synced == self._written):
            self._wake.wait()
            if not self._closing:
                self._urgent.wait(self.limits.sync_interval_s)
            self._wake.clear()
            self._urgent.clear()
            self._dirty = False
            try:
                self._sync()
            except OSError as error:
                self._failure = error
                self._free_end = 0
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._settle)
            if self._failure is not None:
                return

    def _sync(self) -> None:
        with self._lock:
            target, descriptor = self._written, self._descriptor
            retired, self._retired = self._retired, []
        for old, end in retired:
            os.ftruncate(old, end)
            os.fdatasync(old)
            os.close(old)
        os.fdatasync(descriptor)
        if retired:
            sync_directory(self.directory)
        self.counters.syncs += 1
        self._synced = target

    def _settle(self) -> None:
        while self._waiters and (self._failure is not None or self._waiters[0][0] <= self._synced):
            _, waiter = self._waiters.popleft()
            if waiter.done():
                continue
            if self._failure is not None:
                waiter.set_exception(SpoolFailed(str(self._failure)))
            else:
                waiter.set_result(None)


def _own(directory: Path) -> int:
    descriptor = os.open(directory / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SpoolBusy(f"another process owns {directory}") from None
    return descriptor
