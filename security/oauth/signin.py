"""Accounts: making them, and signing members in."""

import secrets
from datetime import UTC, datetime

from mesh.clock import Clock
from mesh.errors import AlreadyExists, FieldViolation, InvalidArgument
from mesh.logs import logger
from security.oauth.domain import fold_login, password_rule
from security.oauth.passwords import PasswordChecker
from security.oauth.protocol import Member
from security.oauth.store import Store

log = logger("oauth")


class Accounts:
    """Blocks for the work of a hash: call it from a thread."""

    def __init__(self, store: Store, passwords: PasswordChecker, clock: Clock) -> None:
        self._store = store
        self._passwords = passwords
        self._clock = clock

    def create(self, member_id: str, login: str, password: str) -> None:
        """Give a member a login. Doing it again with the same three values is the same as doing it once.

        InvalidArgument for a login or password that cannot be taken, AlreadyExists if the member has another login or
        password, or the login is another member's: the answer does not say which.
        """
        try:
            folded = fold_login(login)
        except ValueError as error:
            raise _invalid("login", str(error)) from error
        rule = password_rule(password)
        if rule:
            raise _invalid("password", rule)
        taken = self._store.add_account(member_id, folded, self._passwords.hash(password))
        if taken is None:
            log.info("account_created", member_id=member_id)
            return
        same = (taken.member_id, taken.login) == (member_id, folded)
        if not self._passwords.check(taken.password_hash, password) or not same:
            raise AlreadyExists("ACCOUNT_EXISTS", "this member already has an account, or the login is taken")

    def sign_in(self, login: str, password: str) -> Member | None:
        """The member who signs in, or None. Neither the answer nor its time says whether the login exists."""
        now = datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC)
        try:
            folded = fold_login(login)
        except ValueError:
            folded = ""
        account = self._store.account(folded)
        good = self._passwords.check(account.password_hash if account else None, password)
        if account is None or (account.locked_until is not None and now < account.locked_until):
            return None
        if not good:
            self._store.count_failure(folded, now)
            log.warning("sign_in_failed", member_id=account.member_id)
            return None
        if account.failures:
            self._store.clear_failures(folded)
        return Member(account.member_id, now, secrets.token_urlsafe(16))


def _invalid(field: str, rule: str) -> InvalidArgument:
    return InvalidArgument("ACCOUNT_INVALID", f"the {field} cannot be taken", fields=(FieldViolation(field, rule),))
