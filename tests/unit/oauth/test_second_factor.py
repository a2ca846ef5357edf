"""One-time passwords: RFC 6238's arithmetic, around now and nowhere else."""

from datetime import UTC, datetime, timedelta

import pyotp
import pytest

from security.oauth.second_factor import STEP_S, matching_step

SECRET = pyotp.random_base32()
NOW = datetime(2026, 11, 22, 12, 0, 10, tzinfo=UTC)


@pytest.mark.parametrize(("steps", "good"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_password_is_good_around_its_time(steps: int, good: bool) -> None:
    moment = NOW + timedelta(seconds=steps * STEP_S)
    step = matching_step(SECRET, pyotp.TOTP(SECRET).at(moment), NOW)
    assert step == (int(moment.timestamp()) // STEP_S if good else None)


@pytest.mark.parametrize("password", ["", "000", "abcdef", "é" * 6, "1" * 100])
def test_what_is_no_password_matches_nothing(password: str) -> None:
    assert matching_step(SECRET, password, NOW) is None


def test_another_secret_has_other_passwords() -> None:
    other = pyotp.TOTP(pyotp.random_base32()).at(NOW)
    assert matching_step(SECRET, other, NOW) is None or other == pyotp.TOTP(SECRET).at(NOW)
