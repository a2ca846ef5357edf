"""The ledger balances, or names the first place on an event's way where it does not."""

from typing import Any

import pytest

from deploy.cli.ledger import COUNTS, balance, picture


def line(minute: str = "2026-11-22T10:00Z", partition: int = 0, closed: bool = True, **counts: int) -> dict[str, Any]:
    place = {"minute": minute, "node": "edge-1", "topic": "clicks", "partition": partition, "closed": closed}
    return place | dict.fromkeys(COUNTS, 0) | counts


def test_what_was_sent_is_landed_repeated_or_dead() -> None:
    found = balance(
        [line(sent=10, landed=9, dead_letters=1, duplicates=3, rows=9), line(partition=-1, shed=5, refused=2)]
    )
    assert found.findings == ()
    assert (found.totals["sent"], found.totals["shed"]) == (10, 5)


@pytest.mark.parametrize(
    ("stage", "counts"),
    [
        ("spool", {"sent": 1, "landed": 1, "rows": 1, "damaged": 2}),
        ("spool", {"sent": 1, "landed": 1, "rows": 1, "set_aside": 1}),
        ("kafka", {"sent": 3, "landed": 2, "rows": 2}),
        ("bridge", {"sent": 1, "landed": 2, "rows": 2}),
        ("warehouse", {"sent": 2, "landed": 2, "rows": 1}),
        ("warehouse", {"sent": 2, "landed": 2, "rows": 3}),
    ],
)
def test_the_stage_that_lost_or_invented_events_is_named(stage: str, counts: dict[str, Any]) -> None:
    (finding,) = balance([line(**counts)]).findings
    assert finding.stage == stage


def test_the_first_place_is_the_earliest_minute_and_then_the_first_stage() -> None:
    late = line("2026-11-22T10:05Z", sent=9)
    both = line("2026-11-22T10:01Z", sent=5, landed=4, rows=3)
    found = balance([late, both]).findings
    assert [(each.minute[-3:-1], each.stage) for each in found] == [
        ("01", "kafka"),
        ("01", "warehouse"),
        ("05", "kafka"),
    ]


def test_a_minute_that_is_not_closed_may_still_get_its_events() -> None:
    found = balance([line(sent=5, landed=4, rows=4, closed=False)])
    assert (found.findings, found.open_lines) == ((), 1)


def test_the_picture_shows_each_stage() -> None:
    drawn = picture(dict.fromkeys(COUNTS, 0) | {"sent": 1234, "landed": 1200, "dead_letters": 34, "rows": 1200})
    assert [row.split()[0] for row in drawn.splitlines()] == ["edge", "spool", "kafka", "bridge", "warehouse"]
    assert "1,234" in drawn
