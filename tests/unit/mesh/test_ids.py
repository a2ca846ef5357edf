"""Random ids that come from blocks."""

import re
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import pytest

from mesh.ids import random_ids


def test_each_has_its_size_and_none_comes_twice() -> None:
    take = random_ids(16)
    found = [take() for _ in range(3000)]
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in found)
    assert len(set(found)) == len(found)


def test_threads_do_not_share_one() -> None:
    take = random_ids(8)
    with ThreadPoolExecutor(8) as threads:
        found = [each for some in threads.map(lambda _: [take() for _ in range(500)], repeat(0, 64)) for each in some]
    assert len(set(found)) == len(found)


def test_they_are_the_kernels_random_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    block = bytes(range(256)) * 4
    asked = []

    def urandom(count: int) -> bytes:
        asked.append(count)
        return block

    monkeypatch.setattr("mesh.ids.os.urandom", urandom)
    take = random_ids(4)
    assert {take() for _ in range(256)} == {block[at : at + 4].hex() for at in range(0, len(block), 4)}
    assert asked == [len(block)]
