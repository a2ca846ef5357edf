"""Accounts: making them, and signing members in."""

from dataclasses import replace
from datetime import UTC, datetime

from mesh.clock import Clock
from mesh.errors import AlreadyExists, FieldViolation, InvalidArgument, NotFound
from mesh.logs import logger
from security.oauth.domain import (
    BY_BOTH_FACTORS,
    BY_PASSWORD,
    SESSION_LIFE,
    Account,
    Session,
    fold_login,
    member_id_rule,
    password_rule,
)
from security.oauth.family_store import FamilyStore
from security.oauth.journal import Caller, Journal
from security.oauth.passwords import PasswordChecker
from security.oauth.second_factor import SecondFactors
from security.oauth.store import Store
from security.tokens.admission import STEP_UP_CONTEXT

log = logger("oauth")


class Accounts:
    """Blocks for the work of a hash: call it from a thread."""

    def __init__(
        self,
        store: Store,
        families: FamilyStore,
        passwords: PasswordChecker,
        factors: SecondFactors,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._store = store
        self._families = families
        self._journal = journal
        self._factors = factors
        self._passwords = passwords
        self._clock = clock

    def create(self, member_id: str, login: str, password: str) -> None:
        """Give a member a login. Doing it again with the same three values is the same as doing it once.

        InvalidArgument for an id that no member has, or a login or password that cannot be taken, AlreadyExists if the
        member has another login or password, or the login is another member's: the answer does not say which.
        """
        try:
            folded = fold_login(login)
        except ValueError as error:
            raise _invalid("login", str(error)) from error
        for field, rule in (("member_id", member_id_rule(member_id)), ("password", password_rule(password))):
            if rule:
                raise _invalid(field, rule)
        taken = self._store.add_account(member_id, folded, self._passwords.hash(password))
        if taken is None:
            log.info("account_created", member_id=member_id)
            return
        same = taken.member_id == member_id and self._store.is_login(taken, folded)
        if not self._passwords.check(taken.password_hash, password) or not same:
            raise AlreadyExists("ACCOUNT_EXISTS", "this member already has an account, or the login is taken")

    def enrol(self, member_id: str) -> str:
        """A second factor for a member with an account, as an otpauth URI. NotFound without an account."""
        if self._store.account_of(member_id) is None:
            raise NotFound("ACCOUNT_NOT_FOUND", "this member has no account")
        return self._factors.enrol(member_id)

    def sign_out_everywhere(self, member_id: str, by: Caller) -> None:
        """End all that a member has open, on record in the same transaction."""
        record = self._journal.record("SignOutEverywhere", by, data_subject=member_id)
        self._families.end_all(member_id, self._now(), record)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC)

    def sign_in(self, login: str, password: str, second: str = "", *, require_second: bool = False) -> Session | None:
        """The session of the member who signs in, not begun yet, or None.

        Neither the answer nor its time says whether the login exists.

        second: a one-time password; needed where the member has that factor in use, or require_second.
        """
        now = self._now()
        try:
            folded = fold_login(login)
        except ValueError:
            folded = ""
        account = self._store.account(folded)
        good = self._passwords.check(account.password_hash if account else None, password)
        if account is None or (account.locked_until is not None and now < account.locked_until):
            return None
        context = ""
        if good and (second or require_second or self._factors.required(account.member_id)):
            good = self._factors.use(account.member_id, second, now)
            context = STEP_UP_CONTEXT
        if not good:
            self._store.count_failure(account.member_id, now)
            log.warning("sign_in_failed", member_id=account.member_id)
            return None
        if account.failures:
            self._store.clear_failures(account.member_id)
        return _session(account, now, context, BY_BOTH_FACTORS if context else BY_PASSWORD, folded)

    def session(
        self, member_id: str, context: str, methods: str, signed_in_at: datetime | None = None
    ) -> Session | None:
        """The session of a member who has proven themselves otherwise, or None without an account."""
        now = self._now()
        account = self._store.account_of(member_id)
        if account is None:
            return None
        return replace(_session(account, now, context, methods), signed_in_at=signed_in_at or now)

    def needs_second(self, member_id: str) -> bool:
        """Whether the member uses one-time passwords: who signs in by a provider is asked for one all the same."""
        return self._factors.required(member_id)

    def second(self, member_id: str, password: str) -> bool:
        """Whether this is the member's one-time password of now. A wrong one counts as a wrong password does."""
        now = self._now()
        account = self._store.account_of(member_id)
        if account is None or (account.locked_until is not None and now < account.locked_until):
            return False
        if not self._factors.use(member_id, password, now):
            self._store.count_failure(member_id, now)
            log.warning("sign_in_failed", member_id=member_id)
            return False
        if account.failures:
            self._store.clear_failures(member_id)
        return True

    def failed(self, rule: str) -> None:
        """A proof other than a password was not good: to the log, for nobody's account is guessed that way."""
        log.warning("sign_in_failed", rule=rule)


def _session(account: Account, now: datetime, context: str, methods: str, login: str = "") -> Session:
    return Session("", account.member_id, login, now, now + SESSION_LIFE, context, methods)


def _invalid(field: str, rule: str) -> InvalidArgument:
    return InvalidArgument("ACCOUNT_INVALID", f"the {field} cannot be taken", fields=(FieldViolation(field, rule),))
