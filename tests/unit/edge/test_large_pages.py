"""What a node keeps in memory moves into large pages and stays what it was."""

import ctypes
import mmap
import re
from pathlib import Path

import pytest

from public_edge.node import large_pages

SIZE = 64 << 20
# Of another kind than the rest, so that the kernel joins such a region with no other.
_MAP_NORESERVE = 0x4000


def test_a_large_region_that_is_in_use_moves_and_one_that_is_not_stays_unmade() -> None:
    used = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | _MAP_NORESERVE)
    between = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    unused = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | _MAP_NORESERVE)
    used.write(b"x" * SIZE)
    unused[0] = 1
    if not large_pages.collapse():
        pytest.skip("this kernel makes no large pages on demand")
    assert _figure(used, "AnonHugePages") >= SIZE - (4 << 20)
    assert used[:] == b"x" * SIZE
    assert _figure(unused, "Rss") <= 4 << 20
    between.close()


def _figure(pages: mmap.mmap, name: str) -> int:
    """Bytes of the region that holds the pages, by the kernel's account."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    for region in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M)[1:]:
        first, _, end = region.partition(" ")[0].partition("-")
        if int(first, 16) <= address < int(end, 16):
            found = re.search(rf"^{name}:\s+(\d+) kB", region, re.M)
            assert found is not None
            return int(found[1]) << 10
    raise AssertionError("the pages are in no region")
