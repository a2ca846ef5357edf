"""The rules of the authorization server, without any server."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.oauth.domain import (
    TOKEN_LIFE,
    Client,
    KeyDates,
    KeyRules,
    RefreshUse,
    fold_login,
    lock_after,
    member_id_rule,
    password_rule,
    redirect_matches,
    refresh_use,
    signing_key,
    successor,
)

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DAY = timedelta(days=1)
LOOPBACK = "http://127.0.0.1/callback"


@pytest.mark.parametrize(
    ("registered", "uri", "matches"),
    [
        ("https://shop.example/cb", "https://shop.example/cb", True),
        ("https://shop.example/cb", "https://shop.example/cb/", False),
        ("https://shop.example/cb", "https://shop.example/cb?x=1", False),
        ("https://shop.example/cb", "https://shop.example:444/cb", False),
        ("https://shop.example/cb", "https://shop.example.evil.example/cb", False),
        ("https://shop.example/cb", "HTTPS://shop.example/cb", False),
        (LOOPBACK, LOOPBACK, True),
        (LOOPBACK, "http://127.0.0.1:1/callback", True),
        (LOOPBACK, "http://127.0.0.1:65535/callback", True),
        (LOOPBACK, "http://127.0.0.1:65536/callback", False),
        (LOOPBACK, "http://127.0.0.1:0/callback", False),
        (LOOPBACK, "http://127.0.0.1:080/callback", False),
        (LOOPBACK, "http://127.0.0.1:/callback", False),
        (LOOPBACK, "http://127.0.0.1:80@evil.example/callback", False),
        (LOOPBACK, "http://127.0.0.1:1/x/callback", False),
        (LOOPBACK, "http://127.0.0.1:1/callback#x", False),
        (LOOPBACK, "http://127.0.0.1:1\n/callback", False),
        (LOOPBACK, "http://127.0.0.1.evil.example/callback", False),
        (LOOPBACK, "http://localhost:1/callback", False),
        (LOOPBACK, "https://127.0.0.1:1/callback", False),
        ("http://[::1]/callback", "http://[::1]:5000/callback", True),
        ("http://10.0.0.1/callback", "http://10.0.0.1:5000/callback", False),
    ],
)
def test_a_redirect_target_is_the_registered_string_but_for_a_loopbacks_port(
    registered: str, uri: str, matches: bool
) -> None:
    assert redirect_matches(registered, uri) is matches


def test_a_client_gets_what_it_asks_for_all_of_its_own_or_nothing() -> None:
    client = Client("c", "C", None, frozenset(), frozenset({"a", "b"}), ())
    assert client.granted("a") == frozenset({"a"})
    assert client.granted(None) == client.granted(" ") == frozenset({"a", "b"})
    assert client.granted("a c") is None


@pytest.mark.parametrize("login", ["", "ab", "  ab ", "a\x00bc", "a\nbc", "x" * 129])
def test_what_cannot_be_a_login(login: str) -> None:
    with pytest.raises(ValueError):
        fold_login(login)


@given(st.text(max_size=140))
def test_a_folded_login_folds_to_itself(login: str) -> None:
    try:
        folded = fold_login(login)
    except ValueError:
        return
    assert fold_login(folded) == folded


@pytest.mark.parametrize("member_id", ["13955501237", "ada", f"{uuid.UUID(int=0)}", f"{uuid.UUID(int=7)}0", ""])
def test_what_cannot_be_a_members_id(member_id: str) -> None:
    assert "register the member first" in member_id_rule(member_id)
    assert not member_id_rule(str(uuid.uuid4()))


@pytest.mark.parametrize("password", ["short", "x" * 257, "aaaaaaaaaaaaaaa", "long enough\x00"])
def test_what_cannot_be_a_password(password: str) -> None:
    assert password_rule(password)


def test_guessing_gets_slower_and_never_closes_an_account_for_good() -> None:
    waits = [lock_after(failures) for failures in range(100)]
    assert waits[4] == timedelta(0)
    assert waits[5] == timedelta(seconds=1)
    assert waits == sorted(waits)
    assert max(waits) == timedelta(minutes=5)


def key(kid: str, rules: KeyRules, starts: datetime) -> KeyDates:
    return KeyDates(kid, *rules.dates(starts))


def test_the_first_key_signs_at_once() -> None:
    assert KeyRules().next_start([], NOW) == NOW


def test_the_next_key_is_listed_before_it_signs() -> None:
    rules = KeyRules()
    first = key("a", rules, NOW)
    almost = NOW + rules.signs_for - rules.published_ahead
    assert rules.next_start([first], almost - timedelta(seconds=1)) is None
    assert rules.next_start([first], almost) == NOW + rules.signs_for
    assert rules.next_start([first, key("b", rules, NOW + rules.signs_for)], almost) is None


@given(step_h=st.integers(1, 60), rounds=st.integers(10, 120))
def test_there_is_always_a_signing_key_and_a_token_never_outlives_its_listing(step_h: int, rounds: int) -> None:
    rules, keys, now = KeyRules(), list[KeyDates](), NOW
    for number in range(rounds):
        starts = rules.next_start(keys, now)
        if starts is not None:
            keys.append(key(f"{number:03}", rules, starts))
        signing = signing_key(keys, now)
        assert signing is not None
        assert now < signing.retire_at
        # A key that has just begun to sign was listed long enough before, but for the very first.
        if starts is not None and len([k for k in keys if now < k.retire_at]) > 1:
            assert starts - now >= rules.published_ahead - timedelta(hours=step_h)
        now += timedelta(hours=step_h)


def test_a_replacement_is_under_way_until_its_key_signs() -> None:
    rules = KeyRules()
    first, planned = key("a", rules, NOW), key("b", rules, NOW + rules.signs_for)
    # A key that is listed a day ahead replaces nothing in a hurry.
    assert successor([first, planned], NOW + rules.signs_for - timedelta(hours=1)) is None
    starts = NOW + DAY
    hurried = key("c", rules, starts)
    ended = [KeyDates(one.kid, one.not_before, starts) for one in (first, planned)]
    assert successor([*ended, hurried], starts - timedelta(seconds=1)) == hurried
    assert successor([*ended, hurried], starts) is None
    assert signing_key([*ended, hurried], starts - timedelta(seconds=1)) == ended[0]
    assert signing_key([*ended, hurried], starts) == hurried


def test_a_retiring_key_is_listed_until_its_last_token_has_ended() -> None:
    rules = KeyRules()
    first = key("a", rules, NOW)
    assert first.retire_at >= NOW + rules.signs_for + TOKEN_LIFE


@pytest.mark.parametrize(
    ("used_s_ago", "passed_on", "ended", "expires_s", "use"),
    [
        (None, False, False, 60, RefreshUse.ROTATED),
        (5, False, False, 60, RefreshUse.REPEATED),
        (5, True, False, 60, RefreshUse.REUSED),
        (11, False, False, 60, RefreshUse.REUSED),
        (11, True, False, 60, RefreshUse.REUSED),
        (None, False, True, 60, RefreshUse.UNKNOWN),
        (5, False, True, 60, RefreshUse.UNKNOWN),
        (None, False, False, 0, RefreshUse.UNKNOWN),
    ],
)
def test_what_a_refresh_token_is_good_for(
    used_s_ago: int | None, passed_on: bool, ended: bool, expires_s: int, use: RefreshUse
) -> None:
    used_at = None if used_s_ago is None else NOW - timedelta(seconds=used_s_ago)
    expires_at = NOW + timedelta(seconds=expires_s)
    found = refresh_use(
        now=NOW, expires_at=expires_at, family_ends=NOW + DAY, ended=ended, used_at=used_at, passed_on=passed_on
    )
    assert found is use
