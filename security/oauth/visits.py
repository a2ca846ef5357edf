"""Whose browser asks: its session, its language, and how it signs in. What all pages begin with."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from mesh.clock import Clock
from security.audit.port import AuditSink
from security.oauth.domain import BY_PASSKEY, SESSION_LIFE, Session, browser_name
from security.oauth.federation.port import Provider
from security.oauth.journal import Caller, Journal, caller
from security.oauth.limits import Limits, TooManyError
from security.oauth.pages import Pages, new_cookie
from security.oauth.passkeys import PasskeyError, Passkeys
from security.oauth.session_store import SessionStore, session_id
from security.oauth.signin import Accounts
from security.oauth.words import words_for
from security.oauth.workers import Workers
from security.tokens.admission import STEP_UP_CONTEXT

COOKIE_LENGTH_MAX: Final = 128


@dataclass(frozen=True)
class Visit:
    """One request of a browser. token: what its session's cookie holds, "" where it has none."""

    words: Mapping[str, Any]
    cookie: str
    known: bool
    agent: str
    by: Caller
    token: str = ""
    session: Session | None = None

    def about(self, what: str) -> str:
        """What a form is good for: `what`, in this session alone."""
        return f"{what}\0{self.session.session_id if self.session else ''}"


class Visits:
    """Finds sessions and begins them."""

    def __init__(
        self,
        workers: Workers,
        sessions: SessionStore,
        accounts: Accounts,
        passkeys: Passkeys,
        pages: Pages,
        limits: Limits,
        journal: Journal,
        sink: AuditSink,
        providers: Mapping[str, Provider],
        clock: Clock,
    ) -> None:
        self._workers = workers
        self._sessions = sessions
        self._accounts = accounts
        self._passkeys = passkeys
        self._pages = pages
        self._limits = limits
        self._journal = journal
        self._sink = sink
        self._providers = providers
        self._clock = clock

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC)

    async def of(self, request: HttpRequest) -> Visit:
        """The visit that a request is, with its session if that is alive."""
        kept = request.cookies.get(self._pages.cookie, "")[:COOKIE_LENGTH_MAX]
        token = request.cookies.get(self._pages.session_cookie, "")[:COOKIE_LENGTH_MAX]
        now = self.now()
        session = await self._workers.run(lambda: self._sessions.find(token, now)) if token else None
        return Visit(
            words=words_for(request.headers.get("accept-language", "")),
            cookie=kept or new_cookie(),
            known=bool(kept),
            agent=browser_name(request.headers.get("user-agent", "")),
            by=caller(request.headers),
            token=token if session else "",
            session=session,
        )

    async def sign_in_page(
        self,
        visit: Visit,
        *,
        action: str,
        what: str,
        problem: str = "",
        client: str = "",
        step_up: bool = False,
        **values: Any,
    ) -> Response:
        """The form to sign in with, for `what` to go on afterwards. step_up: both factors are needed for that."""
        now = self.now()
        passkey = self._passkeys.asking(visit.cookie, now) if self._passkeys.offered else ""
        return self._pages.form(
            "sign_in.html",
            visit.words,
            cookie=visit.cookie,
            about=f"sign-in\0{what}",
            action=action,
            passkey=passkey,
            problem=problem,
            client=client,
            step_up=step_up,
            providers=self.providers(visit),
            status=403 if problem else 200,
            **({"user_code": ""} | values),
        )

    def providers(self, visit: Visit) -> Mapping[str, str]:
        """The outside identity providers, by name, as this visitor calls them."""
        return {name: each.titles[visit.words["language"]] for name, each in self._providers.items()}

    def forged(self, visit: Visit, what: str, form: Mapping[str, str]) -> bool:
        """Whether the form to sign in did not come from the page for `what`."""
        return not visit.known or self._pages.forged(visit.cookie, f"sign-in\0{what}", form.get("csrf", ""))

    async def sign_in(
        self, visit: Visit, form: Mapping[str, str], *, client_id: str = "", require_second: bool = False
    ) -> Visit | None:
        """The same visit in a session of its own, if the form proves a member; None if it does not.

        TooManyError where this source has failed too often.
        """
        self.admit(visit)
        now = self.now()
        found = await self._workers.run(lambda: self._proven(visit, form, now, require_second))
        if found is None:
            self.refuse(visit, client_id)
            return None
        return await self.enter(visit, found, client_id, found.methods)

    def admit(self, visit: Visit) -> None:
        """Let this source try to sign in. TooManyError where it has tried or failed too often."""
        wait_s = self._limits.wait_s(*_source(visit))
        if wait_s > 0:
            raise TooManyError(wait_s)

    def refuse(self, visit: Visit, client_id: str, rule: str = "SIGN_IN_FAILED", *, counts: bool = True) -> None:
        """Put a sign-in that proved nobody on record, and count it where nobody else can have caused it."""
        if counts:
            self._limits.failed(*_source(visit))
        self._sink.enqueue(self._journal.record("SignIn", visit.by, client=client_id, detail=rule, refused=True))

    async def enter(self, visit: Visit, found: Session, client_id: str, detail: str) -> Visit:
        """The same visit in this session, begun and on record with how it was come by."""
        self._limits.succeeded(*_source(visit))
        token = secrets.token_urlsafe(32)
        session = replace(found, session_id=session_id(token), agent=visit.agent)
        record = self._journal.record(
            "SignIn", visit.by, client=client_id, data_subject=session.member_id, detail=detail
        )
        await self._workers.run(lambda: self._sessions.begin(token, session, visit.token, record))
        return replace(visit, token=token, session=session)

    def keep(self, visit: Visit, response: Response) -> Response:
        """Give the browser its session's cookie along with an answer."""
        response.set_cookie(
            self._pages.session_cookie,
            visit.token,
            max_age=int(SESSION_LIFE.total_seconds()),
            path="/",
            secure=True,
            httponly=True,
            samesite="lax",
        )
        return response

    def _proven(self, visit: Visit, form: Mapping[str, str], now: datetime, require_second: bool) -> Session | None:
        credential = form.get("credential", "")
        if not credential:
            login, password, second = (form.get(name, "") for name in ("login", "password", "second"))
            return self._accounts.sign_in(login, password, second, require_second=require_second)
        try:
            member_id = self._passkeys.use(credential, visit.cookie, now)
        except PasskeyError as error:
            self._accounts.failed(str(error))
            return None
        return self._accounts.session(member_id, STEP_UP_CONTEXT, BY_PASSKEY)


def _source(visit: Visit) -> tuple[str, str]:
    """Whom the limits of signing in count for."""
    return (visit.by.address, "sign-in")
