"""What probes say of a drill's own traffic: arrivals come by chance, and one that is a moment late is waited for."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from chaoslib.exceptions import ActivityFailed

from chaos import probes
from chaos.drill import current
from chaos.drill.loop import Loop
from chaos.load.timeline import Timeline

WINDOW_S = 0.3


class Crowd:
    """Traffic whose clock stands at 10 s; something is asked for the first time at a given look."""

    def __init__(self, asked_at_look: int) -> None:
        self.traffic = SimpleNamespace(now_s=10.0)
        self.looks = 0
        self._asked_at_look = asked_at_look

    @property
    def timeline(self) -> Timeline:
        self.looks += 1
        timeline = Timeline()
        if self.looks >= self._asked_at_look:
            timeline.ok("order", 9.9, 0.01)
        return timeline


@pytest.fixture
def crowd(request: pytest.FixtureRequest) -> Iterator[Crowd]:
    crowd, loop = Crowd(request.param), Loop()
    session: Any = SimpleNamespace(loop=loop, crowd=crowd)
    current.enter(session)
    yield crowd
    current.leave()
    loop.close()


@pytest.mark.parametrize("crowd", [1, 2], indirect=True)
def test_an_arrival_that_is_late_is_waited_for(crowd: Crowd) -> None:
    assert probes.sensitive_availability(WINDOW_S) == 1
    assert crowd.looks == crowd._asked_at_look


@pytest.mark.parametrize("crowd", [10_000], indirect=True)
def test_no_traffic_shows_nothing(crowd: Crowd) -> None:
    with pytest.raises(ActivityFailed, match="no traffic in the last"):
        probes.sensitive_availability(WINDOW_S)
