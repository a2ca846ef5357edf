"""When drills begin by themselves, and when they must not."""

from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from chaos.drill.calendar import Calendar, read
from chaos.drill.errors import BadExperiment

# A Sunday.
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def due(number: int, **fields: Any) -> list[tuple[str, str]]:
    times = islice(Calendar(**fields).due(NOW), number)
    return [(at.strftime("%a %d %H:%M"), drill) for at, drill in times]


def test_drills_come_in_the_order_of_time() -> None:
    drills = [{"cron": "0 3 * * *", "drill": "slow-core"}, {"cron": "30 2 * * 1", "drill": "kafka-outage"}]
    assert due(3, drills=drills) == [
        ("Mon 23 02:30", "kafka-outage"),
        ("Mon 23 03:00", "slow-core"),
        ("Tue 24 03:00", "slow-core"),
    ]


def test_none_begins_in_forbidden_hours() -> None:
    forbidden = [{"days": ["mon"], "begins": "08:00", "ends": "20:00"}, {"dates": ["2026-11-24"]}]
    drills = [{"cron": "0 8,20 * * *", "drill": "slow-core"}]
    times = [at for at, _ in due(3, drills=drills, forbidden=forbidden)]
    assert times == ["Sun 22 20:00", "Mon 23 20:00", "Wed 25 08:00"]


def test_hours_are_those_of_the_time_zone() -> None:
    drills = [{"cron": "0 3 * * *", "drill": "slow-core"}]
    at, _ = next(Calendar(drills=drills, timezone="Asia/Shanghai").due(NOW))
    assert at.astimezone(UTC) == datetime(2026, 11, 22, 19, 0, tzinfo=UTC)


def test_a_calendar_that_forbids_everything_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.drill.calendar.TRIES_MAX", 1000)
    assert due(1, drills=[{"cron": "0 3 * * *", "drill": "slow-core"}], forbidden=[{}]) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no calendar"),
        ("drills: []", "no calendar"),
        ("drills: [{cron: '61 * * * *', drill: slow-core}]", "cron"),
        ("drills: [{cron: '0 3 * * *', drill: no-such-drill}]", "no drill"),
        ("drills: [{cron: '0 3 * * *', drill: slow-core}]\ntimezone: Mars/Base", "timezone"),
        ("drills: [{cron: '0 3 * * *', drill: slow-core}]\nforbidden: [{days: [someday]}]", "days"),
        ("drills: [{cron: '0 3 * * *', drill: slow-core, luck: 1}]", "luck"),
        ("drills: {", "cannot be read"),
    ],
)
def test_an_unsound_calendar_is_refused(tmp_path: Path, content: str, why: str) -> None:
    file = tmp_path / "calendar.yaml"
    file.write_text(content)
    with pytest.raises(BadExperiment, match=why):
        read(file)
