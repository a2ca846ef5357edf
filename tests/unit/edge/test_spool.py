"""The spool: what was appended is read back, whatever happens to the process or the file in between."""

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from public_edge.spool import record, segment, watermark
from public_edge.spool.errors import SpoolBusy, SpoolFailed, SpoolFull
from public_edge.spool.reader import SpoolReader
from public_edge.spool.spool import RESERVE_BYTES, Spool, SpoolLimits
from public_edge.spool.watermark import Watermark

PAYLOADS = st.lists(st.binary(min_size=0, max_size=40), min_size=1, max_size=5)
SMALL = SpoolLimits(segment_bytes=4096)


def read_all(spool: Spool) -> list[bytes]:
    reader = SpoolReader(spool)
    found: list[bytes] = []
    while records := reader.read():
        found += [entry.payload for entry in records]
    reader.close()
    return found


def fill(directory: Path, payloads: list[bytes], limits: SpoolLimits | None = None) -> None:
    spool = Spool(directory, limits)
    for payload in payloads:
        spool.append(payload)
    spool.close()


@given(payloads=PAYLOADS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_spool_cut_at_any_byte_reads_back_a_prefix(tmp_path: Path, payloads: list[bytes]) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    shutil.rmtree(whole, ignore_errors=True)
    fill(whole, payloads, SMALL)
    (path,) = whole.glob("*.seg")
    content = path.read_bytes()
    for size in range(len(content) + 1):
        shutil.rmtree(cut, ignore_errors=True)
        cut.mkdir()
        (cut / path.name).write_bytes(content[:size])
        spool = Spool(cut, SMALL)
        found = read_all(spool)
        assert found == payloads[: len(found)]
        assert len(found) == sum(1 for _ in segment.records(content[:size], segment.HEADER_BYTES))
        sequence = spool.append(b"next")
        assert sequence == len(found) + 1
        assert read_all(spool) == [*found, b"next"]
        spool.close()


@given(payloads=PAYLOADS, at=st.floats(0, 1), flip=st.integers(1, 255))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_costs_one_record_at_most(tmp_path: Path, payloads: list[bytes], at: float, flip: int) -> None:
    directory = tmp_path / "spool"
    shutil.rmtree(directory, ignore_errors=True)
    fill(directory, payloads, SMALL)
    (path,) = directory.glob("*.seg")
    content = bytearray(path.read_bytes())
    offset = min(int(at * len(content)), len(content) - 1)
    content[offset] ^= flip
    path.write_bytes(content)
    spool = Spool(directory, SMALL)
    found = read_all(spool)
    spool.close()
    assert len(found) >= len(payloads) - 1
    remaining = iter(payloads)
    assert all(payload in remaining for payload in found), "what is left keeps its order"


def test_a_damaged_middle_is_quarantined_and_counted_once(tmp_path: Path) -> None:
    fill(tmp_path, [b"one", b"two", b"three"])
    (path,) = tmp_path.glob("*.seg")
    content = bytearray(path.read_bytes())
    content[content.index(b"two")] ^= 0xFF
    path.write_bytes(content)
    spool = Spool(tmp_path)
    assert spool.counters.quarantined == 1
    assert len(list((tmp_path / "quarantine").iterdir())) == 1
    assert read_all(spool) == [b"one", b"three"]
    spool.close()
    again = Spool(tmp_path)
    assert again.counters.quarantined == 0
    again.close()


def test_one_process_owns_a_directory(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(SpoolBusy):
        Spool(tmp_path)
    spool.close()
    Spool(tmp_path).close()


def test_a_segment_goes_when_it_is_acknowledged_and_the_watermark_is_saved(tmp_path: Path) -> None:
    limits = SpoolLimits(segment_bytes=200)
    spool = Spool(tmp_path, limits)
    for number in range(20):
        spool.append(b"x" * 50 + bytes([number]))
    before = len(list(tmp_path.glob("*.seg")))
    assert before > 3
    spool.acknowledge(10)
    assert len(list(tmp_path.glob("*.seg"))) < before
    assert [payload[-1] for payload in read_all(spool)] == list(range(10, 20))
    spool.close()
    again = Spool(tmp_path, limits)
    assert again.acknowledged == 10
    assert [payload[-1] for payload in read_all(again)] == list(range(10, 20))
    again.close()


def test_sequences_go_on_behind_a_watermark_that_is_ahead_of_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in range(5):
        spool.append(bytes([number]))
    spool.acknowledge(5)
    spool.close()
    for path in tmp_path.glob("*.seg"):
        path.unlink()
    again = Spool(tmp_path)
    assert again.append(b"after") == 6
    assert read_all(again) == [b"after"]
    again.close()


@pytest.mark.parametrize("snapshot_at", ["while it runs", "after it has ended"])
def test_a_restored_old_snapshot_sends_again_what_it_holds_and_goes_on(tmp_path: Path, snapshot_at: str) -> None:
    limits, live, backup = SpoolLimits(segment_bytes=200), tmp_path / "live", tmp_path / "backup"
    spool = Spool(live, limits)
    for number in range(10):
        spool.append(bytes([number]) * 50)
    spool.acknowledge(4, b"books of four")
    spool.save_watermark()
    if snapshot_at == "after it has ended":
        spool.close()
    shutil.copytree(live, backup)
    if snapshot_at == "after it has ended":
        spool = Spool(live, limits)
    for number in range(10, 20):
        spool.append(bytes([number]) * 50)
    spool.acknowledge(20, b"books of twenty")
    spool.close()
    shutil.rmtree(live)
    backup.rename(live)

    restored = Spool(live, limits)
    assert (restored.acknowledged, restored.note, restored.watermark_known) == (4, b"books of four", True)
    # All that the snapshot holds and had not told comes again: whoever takes it knows it by its event id.
    assert [payload[0] for payload in read_all(restored)] == list(range(4, 10))
    assert restored.append(b"after") == 11
    assert read_all(restored)[-1] == b"after"
    restored.close()


def test_a_damaged_watermark_sends_again_rather_than_skips(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(b"kept")
    spool.acknowledge(1)
    spool.append(b"new")
    spool.close()
    (tmp_path / "watermark").write_bytes(b"\0" * 12)
    again = Spool(tmp_path)
    assert read_all(again) == [b"kept", b"new"]
    again.close()


def test_bounded_events_are_shed_before_durable_ones_are_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SpoolLimits(segment_bytes=500, bytes_max=2000, bounded_share=0.5))
    for _ in range(100):
        spool.append(b"impression" * 3)
    assert spool.counters.shed > 0
    assert spool.append(b"click", durable=True) is not None

    def click_without_end() -> None:
        for _ in range(100):
            spool.append(b"click" * 6, durable=True)

    with pytest.raises(SpoolFull):
        click_without_end()
    assert spool.counters.refused == 1
    spool.acknowledge(spool.written)
    assert spool.append(b"impression") is not None, "room again once Kafka has acknowledged"
    spool.close()


def test_a_full_disk_refuses_a_click_and_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, SpoolLimits(segment_bytes=100))
    spool.append(b"before" * 8, durable=True)
    allocate = os.posix_fallocate

    def none(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", none)
    with pytest.raises(SpoolFull):
        spool.append(b"click" * 8, durable=True)
    assert spool.append(b"impression" * 4) is None
    assert (spool.counters.refused, spool.counters.shed) == (1, 1)
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    spool.append(b"after" * 8, durable=True)
    assert read_all(spool) == [b"before" * 8, b"after" * 8]
    spool.close()


def test_a_full_disk_does_not_keep_acknowledged_segments_from_going(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, SpoolLimits(segment_bytes=100))
    for number in range(10):
        spool.append(b"event %d" % number * 8)
    before = len(list(tmp_path.glob("*.seg")))
    save, reserve = watermark.save, tmp_path / "reserve"

    def on_a_full_disk(directory: Path, current: Watermark) -> None:
        if reserve.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        save(directory, current)

    monkeypatch.setattr(watermark, "save", on_a_full_disk)
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES, "its blocks are allocated"
    spool.acknowledge(8, b"note")
    assert len(list(tmp_path.glob("*.seg"))) < before
    assert watermark.load(tmp_path) == (8, b"note")
    monkeypatch.setattr(watermark, "save", save)
    spool.close()


def test_what_was_declined_is_counted_by_kind_and_outlives_the_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SpoolLimits(segment_bytes=500, bytes_max=2000, bounded_share=0.5))
    for _ in range(100):
        spool.append(b"\x01impression" * 3)

    def click_without_end() -> None:
        for _ in range(100):
            spool.append(b"\x02click" * 6, durable=True)

    with pytest.raises(SpoolFull):
        click_without_end()
    shed = spool.counters.shed
    assert spool.declined.counts() == {1: (shed, 0), 2: (0, 1)}
    spool.close()
    again = Spool(tmp_path)
    assert again.declined.counts() == {1: (shed, 0), 2: (0, 1)}
    again.close()


def test_what_was_appended_outlives_a_killed_process(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from public_edge.spool.spool import Spool
spool = Spool(Path({str(tmp_path)!r}))
for number in range(1000):
    spool.append(number.to_bytes(2, "big") + bytes(number % 50))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    spool = Spool(tmp_path)
    assert [int.from_bytes(payload[:2], "big") for payload in read_all(spool)] == list(range(1000))
    assert (spool.counters.torn_bytes, spool.counters.quarantined) == (0, 0)
    spool.close()


async def test_a_durable_event_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real_sync = os.fdatasync

    def sync(descriptor: int) -> None:
        real_sync(descriptor)
        synced.append(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)
    spool = Spool(tmp_path)
    sequence = spool.append(b"click", durable=True)
    assert sequence is not None
    await asyncio.wait_for(spool.synced(sequence), 5)
    assert synced
    assert spool.synced_sequence >= sequence
    spool.close()


async def test_many_durable_events_share_a_sync(tmp_path: Path) -> None:
    spool = Spool(tmp_path)

    async def click(number: int) -> None:
        sequence = spool.append(b"click %d" % number, durable=True)
        assert sequence is not None
        await spool.synced(sequence)

    await asyncio.wait_for(asyncio.gather(*(click(number) for number in range(500))), 10)
    assert spool.counters.syncs < 50
    spool.close()


async def test_bounded_events_are_on_the_disk_within_50_ms_of_the_first(tmp_path: Path) -> None:
    assert SpoolLimits().sync_interval_s <= 0.04
    spool = Spool(tmp_path)
    sequence = spool.append(b"impression")
    assert sequence is not None
    async with asyncio.timeout(5):
        while spool.synced_sequence < sequence:  # noqa: ASYNC110 - the event under test is the disk's, not the loop's
            await asyncio.sleep(0.005)
    spool.close()


async def test_a_failed_sync_fails_the_waiting_and_all_that_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    sequence = spool.append(b"click", durable=True)
    assert sequence is not None
    with pytest.raises(SpoolFailed):
        await asyncio.wait_for(spool.synced(sequence), 5)
    with pytest.raises(SpoolFailed):
        spool.append(b"click", durable=True)
    spool.close()


def test_a_reader_follows_the_writer_across_segments(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SpoolLimits(segment_bytes=400))
    reader = SpoolReader(spool)
    seen: list[int] = []
    for number in range(200):
        spool.append(number.to_bytes(2, "big") + b"." * 30)
        if number % 7 == 0:
            seen += [int.from_bytes(entry.payload[:2], "big") for entry in reader.read()]
    while records := reader.read():
        seen += [int.from_bytes(entry.payload[:2], "big") for entry in records]
    assert seen == list(range(200))
    reader.rewind()
    assert reader.read()[0].sequence == 1
    reader.close()
    spool.close()


def test_a_group_is_one_write_and_many_records(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.append_many([b"a", b"b", b"c"]) == 3
    assert read_all(spool) == [b"a", b"b", b"c"]
    spool.close()


@given(st.binary(max_size=300), st.integers(0, 2**63))
def test_a_record_reads_back_as_written(payload: bytes, sequence: int) -> None:
    frame = record.encode(sequence, payload)
    assert record.decode(frame, 0) == (record.Record(sequence, payload), len(frame))
