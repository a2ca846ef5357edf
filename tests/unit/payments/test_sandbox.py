"""The sandbox provider: one key is one operation, also after a restart; it misbehaves for XTS, and only for that."""

from datetime import date
from pathlib import Path

import grpc
import pytest
from isthmus.payments.v1 import notifications_pb2 as pb

from mesh.errors import Unavailable
from private_core.money import Money
from private_core.payments.sandbox.domain import Asked, Memory, stated
from private_core.payments.sandbox.journal import DAYS_MAX, Entry, Journal
from private_core.payments.sandbox.notifier import Notifier
from private_core.refusals import Duplicate

HOLD = Asked("hold", "payment-1", Money(999, "USD"))
DAY_US = 86_400_000_000
NOW_US = 20_000 * DAY_US


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def memory(journal: Journal, operations_max: int = 10, now_us: int = NOW_US) -> Memory:
    return Memory(operations_max, journal, lambda: now_us)


def xts(minor: int) -> Asked:
    return Asked("hold", "payment-1", Money(minor, "XTS"))


def test_one_key_is_one_operation_also_after_a_restart(journal: Journal) -> None:
    one = memory(journal)
    first, new = one.decide("key-1", HOLD)
    assert (new, first.approved) == (True, True)
    assert one.decide("key-1", HOLD) == (first, False)
    assert len(one) == 1
    assert memory(journal).decide("key-1", HOLD) == (first, False)
    assert list(journal.read(first.day)) == [first]


def test_a_key_does_not_name_two_things(journal: Journal) -> None:
    one = memory(journal)
    one.decide("key-1", HOLD)
    with pytest.raises(Duplicate):
        one.decide("key-1", Asked("take", "payment-1", Money(999, "USD")))


def test_the_oldest_is_forgotten_first_and_decided_alike_again(journal: Journal) -> None:
    one = memory(journal, 2)
    first, _ = one.decide("key-1", HOLD)
    for number in (2, 3):
        one.decide(f"key-{number}", HOLD)
    assert len(one) == 2
    assert one.decide("key-1", HOLD)[0] == first


def test_a_line_that_a_crash_cut_off_and_days_long_gone_are_left_out(journal: Journal, tmp_path: Path) -> None:
    old, _ = memory(journal, now_us=NOW_US - DAYS_MAX * DAY_US).decide("key-0", HOLD)
    kept, _ = memory(journal).decide("key-1", HOLD)
    with (tmp_path / f"{kept.day}.jsonl").open("a") as file:
        file.write('{"key": "key-2", "ki')
    assert journal.newest(10) == [kept]
    assert list(journal.read(old.day)) == []
    assert list(journal.read(date(1999, 1, 1))) == []


def test_amounts_for_testing_decline_or_misstate(journal: Journal) -> None:
    one = memory(journal)
    entries = [one.decide(f"key-{minor}", xts(minor))[0] for minor in range(1, 8)]
    assert [entry.approved for entry in entries] == [False, True, True, True, True, True, False]
    shown = [stated(entry) for entry in entries]
    assert [line.minor if line else None for line in shown] == [1, 2, 3, 4, 6, None, 7]


class Merchant:
    """Hears what the notifier says, unless it is away."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.away = False

    async def Notify(self, request: pb.NotifyRequest) -> pb.NotifyResponse:
        if self.away:
            raise Unavailable("RPC_FAILED", "away")
        self.heard += [one.operation_id for one in request.notifications]
        return pb.NotifyResponse()


async def test_notifications_come_twice_out_of_order_and_again_when_nobody_heard(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    merchant = Merchant()
    notifier = Notifier(grpc.aio.insecure_channel("localhost:1"))
    monkeypatch.setattr(notifier, "_stub", merchant)
    one = memory(journal)
    entries: list[Entry] = [one.decide(f"key-{number}", HOLD)[0] for number in range(3)]
    untold, _ = one.decide("key-untold", xts(4))
    for entry in (*entries, untold):
        notifier.add(entry)
    merchant.away = True
    assert await notifier.round() == 0
    merchant.away = False
    assert await notifier.round() == 3
    assert await notifier.round() == 0
    assert merchant.heard == ["key-2", "key-1", "key-0", "key-0", "key-1", "key-2"]
