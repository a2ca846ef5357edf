"""Random ids, as hexadecimal digits, for those who need one in every call."""

import os
from collections.abc import Callable
from typing import Final

_BLOCK: Final = 256


def random_ids(size: int) -> Callable[[], str]:
    """Gives ids of `size` bytes each. The kernel is asked for many at once, as asking took longer than the rest."""
    waiting: list[str] = []

    def take() -> str:
        # Threads may be here at the same time; pop gives each id to one of them alone.
        while True:
            try:
                return waiting.pop()
            except IndexError:
                block = os.urandom(size * _BLOCK).hex()
                waiting.extend(block[at : at + 2 * size] for at in range(0, len(block), 2 * size))

    return take
