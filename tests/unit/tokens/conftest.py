"""A clock that the tests of tokens set."""

import pytest

NOW_S = 1_800_000_000


class FakeClock:
    def __init__(self) -> None:
        self.now_s = NOW_S
        self.elapsed_s = 0.0

    def now_us(self) -> int:
        return self.now_s * 1_000_000

    def monotonic(self) -> float:
        return self.elapsed_s


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
