"""When a drill or a demonstration may begin to count."""

from collections.abc import Callable
from typing import cast

import pytest

from chaos.checkers import books as module
from chaos.checkers.books import Books, Channel, Traffic, read_settled

NOBODY = cast(Channel, None)


def holding(impressions: int) -> Books:
    slots = {"top": Traffic(impressions=impressions)} if impressions else {}
    return Books(slots, {}, 0, 0, 0, 0, {}, {}, {}, 0)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Lets the books be read with these numbers of impressions, one after another. Returns those not read yet."""

    def reads(*impressions: int) -> list[int]:
        left = list(impressions)

        async def read_books(channel: Channel) -> Books:
            return holding(left.pop(0))

        monkeypatch.setattr(module, "read_books", read_books)
        return left

    return reads


async def test_empty_books_are_settled_when_nobody_has_sent_anything(read: Callable[..., list[int]]) -> None:
    left = read(0, 72)
    assert await read_settled(NOBODY, still_s=0) == holding(0)
    assert left == [72]


async def test_what_was_sent_is_waited_for_though_the_books_stand_still_before_it(
    read: Callable[..., list[int]],
) -> None:
    left = read(0, 0, 0, 70, 72, 72, 99)
    settled = await read_settled(NOBODY, lambda books: books != holding(0), still_s=0)
    assert settled == holding(72)
    assert left == [99]


async def test_what_an_earlier_run_left_is_waited_for(read: Callable[..., list[int]]) -> None:
    read(5, 6, 7, 7)
    assert await read_settled(NOBODY, still_s=0) == holding(7)


async def test_the_deadline_ends_the_waiting_for_what_never_comes(read: Callable[..., list[int]]) -> None:
    read(0, 0)
    assert await read_settled(NOBODY, lambda books: False, still_s=0, deadline_s=0) == holding(0)
