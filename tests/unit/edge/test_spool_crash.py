"""The spool loses power at any byte, at any moment: what was synced is there, in order, and counted on from there."""

import shutil
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from public_edge.spool import segment
from public_edge.spool.reader import SpoolReader
from public_edge.spool.spool import Spool, SpoolLimits

# Segments of a few records, so that a short run rotates and removes them.
LIMITS = SpoolLimits(segment_bytes=256)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.binary(max_size=60)),
        st.tuples(st.just("sync"), st.just(b"")),
        st.tuples(st.just("acknowledge"), st.binary(max_size=20)),
    ),
    min_size=1,
    max_size=12,
)


def read_all(spool: Spool) -> list[tuple[int, bytes]]:
    reader = SpoolReader(spool)
    found: list[tuple[int, bytes]] = []
    while records := reader.read():
        found += [(entry.sequence, entry.payload) for entry in records]
    reader.close()
    return found


def run(directory: Path, steps: list[tuple[str, bytes]]) -> tuple[list[bytes], int, int, bytes]:
    """Do the steps and leave the directory as a dead process leaves it: payloads, synced, acknowledged, note."""
    spool = Spool(directory, LIMITS)
    payloads: list[bytes] = []
    synced = 0
    for what, payload in steps:
        if what == "append":
            spool.append(payload)
            payloads.append(payload)
        elif what == "sync":
            spool._sync()
            synced = len(payloads)
        else:
            spool.acknowledge((spool.acknowledged + len(payloads) + 1) // 2, payload)
            spool.save_watermark()
    acknowledged, note = spool.acknowledged, spool.note
    frozen = directory.with_name("frozen")
    shutil.rmtree(frozen, ignore_errors=True)
    shutil.copytree(directory, frozen)
    spool.close()
    return payloads, synced, acknowledged, note


@given(steps=STEPS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_power_lost_at_every_byte_behind_the_last_sync(tmp_path: Path, steps: list[tuple[str, bytes]]) -> None:
    work = tmp_path / "work"
    shutil.rmtree(work, ignore_errors=True)
    payloads, synced, acknowledged, note = run(work, steps)
    frozen, cut = tmp_path / "frozen", tmp_path / "cut"
    newest = max(frozen.glob("*.seg"))
    content = newest.read_bytes()
    written = segment.HEADER_BYTES + sum(size for _, size in _sizes(content))
    for keep in range(written + 1):
        # The pages behind the cut never reached the disk: they read as the zeros they were allocated with.
        shutil.rmtree(cut, ignore_errors=True)
        shutil.copytree(frozen, cut)
        (cut / newest.name).write_bytes(content[:keep] + b"\0" * (len(content) - keep))
        spool = Spool(cut, LIMITS)
        found = read_all(spool)
        spool_next = spool.append(b"next")
        assert (spool.acknowledged, spool.note) == (acknowledged, note)
        spool.close()
        assert all(payloads[sequence - 1] == payload for sequence, payload in found)
        numbers = [sequence for sequence, _ in found]
        assert numbers == list(range(acknowledged + 1, acknowledged + 1 + len(numbers))), "in order, none left out"
        first_in_newest = int(newest.stem)
        sure = min(synced, len(payloads)) if keep >= written else min(synced, first_in_newest - 1)
        assert acknowledged + len(numbers) >= sure
        assert spool_next == acknowledged + len(numbers) + 1


def _sizes(content: bytes) -> list[tuple[int, int]]:
    found, at = [], segment.HEADER_BYTES
    for record, end in segment.records(content.rstrip(b"\0") + b"\0" * 64, segment.HEADER_BYTES):
        found.append((record.sequence, end - at))
        at = end
    return found


@given(steps=STEPS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_watermark_cut_at_every_byte_sends_again_and_skips_nothing(
    tmp_path: Path, steps: list[tuple[str, bytes]]
) -> None:
    work = tmp_path / "work"
    shutil.rmtree(work, ignore_errors=True)
    payloads, _, acknowledged, _ = run(work, steps)
    frozen, cut = tmp_path / "frozen", tmp_path / "cut"
    mark = frozen / "watermark"
    whole = mark.read_bytes() if mark.exists() else b""
    for keep in range(len(whole)):
        shutil.rmtree(cut, ignore_errors=True)
        shutil.copytree(frozen, cut)
        (cut / "watermark").write_bytes(whole[:keep])
        spool = Spool(cut, LIMITS)
        numbers = [sequence for sequence, _ in read_all(spool)]
        assert (spool.acknowledged, spool.note, spool.watermark_known) == (0, b"", False)
        spool.close()
        assert numbers == list(range(len(payloads) - len(numbers) + 1, len(payloads) + 1))
        assert len(numbers) >= len(payloads) - acknowledged
