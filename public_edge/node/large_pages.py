"""Large pages for what the process keeps in memory.

A decision among 100,000 campaigns touches a dozen objects that lie anywhere in hundreds of megabytes. Above small pages
most of that time goes into translating their addresses; above pages of 2 MiB the processor holds them all.
"""

import ctypes
import re
from pathlib import Path

# Since Linux 6.1 (madvise(2)): at once, and whatever the system's setting is, unless that is `never`.
_MADV_COLLAPSE = 25
REGION_BYTES_MIN = 8 << 20
# Of a region, what must be in memory already: the pages of stacks and reserves that nobody touched stay unmade.
_RESIDENT_MIN = 0.9
_REGION = re.compile(
    r"^(?P<first>[0-9a-f]+)-(?P<end>[0-9a-f]+) rw-p \S+ \S+ 0\s.*?^Rss:\s+(?P<resident_kib>\d+) kB", re.M | re.S
)


def collapse() -> int:
    """Move the large anonymous regions into large pages. Bytes of those where the kernel did so; 0 where it cannot."""
    try:
        regions = Path("/proc/self/smaps").read_text("ascii", "replace")
    except OSError:
        return 0
    libc = ctypes.CDLL(None)
    done = 0
    for region in _REGION.finditer(regions):
        first, end = int(region["first"], 16), int(region["end"], 16)
        size, resident = end - first, int(region["resident_kib"]) << 10
        if size >= REGION_BYTES_MIN and resident >= size * _RESIDENT_MIN:
            refused = libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), _MADV_COLLAPSE)
            done += 0 if refused else size
    return done
