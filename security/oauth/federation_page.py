"""Sending browsers to identity providers, and /oauth/callback/NAME, where each comes back from its own.

Nobody becomes a member by what a provider says: a member who is signed in here connects themselves with somebody there,
once; from then on whoever is that somebody signs in. An address or a name there means nothing here.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from authlib.oauth2.rfc6749 import InvalidRequestError
from starlette.requests import Request as HttpRequest
from starlette.responses import RedirectResponse, Response

from mesh.logs import logger
from security.oauth.domain import (
    BY_PROVIDER,
    BY_PROVIDER_AND_SECOND,
    DEPARTURE_LIFE,
    Departure,
    taken_for_signed_in_at,
)
from security.oauth.federation.port import AwayError, NotProvenError, Person, Provider, Secrets, Wanted
from security.oauth.federation.providers import CALLBACK
from security.oauth.federation.store import FederationStore
from security.oauth.journal import Journal
from security.oauth.messages import NO_STORE, form_of
from security.oauth.pages import Pages
from security.oauth.parameters import QUERY_BYTES_MAX, TooLargeError, parse
from security.oauth.signin import Accounts
from security.oauth.visits import Visit, Visits
from security.oauth.workers import Workers
from security.tokens.admission import STEP_UP_CONTEXT

log = logger("oauth")

_ACCOUNT: Final = "/oauth/account"
_PROBLEMS: Final = {"NOT_FRESH": "provider_stale", "DENIED_THERE": "provider_denied"}


class FederationPage:
    """Serves the callbacks. `key` is shared by the replicas: who left from one may come back to the other."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        store: FederationStore,
        accounts: Accounts,
        visits: Visits,
        pages: Pages,
        workers: Workers,
        journal: Journal,
        key: bytes,
    ) -> None:
        self._providers = providers
        self._store = store
        self._accounts = accounts
        self._visits = visits
        self._pages = pages
        self._workers = workers
        self._journal = journal
        self._key = key

    @property
    def paths(self) -> list[str]:
        """Where browsers come back."""
        return [f"{CALLBACK}{name}" for name in self._providers]

    async def leave(
        self,
        visit: Visit,
        name: str,
        *,
        back: str,
        client_id: str = "",
        age_s_max: int | None = None,
        second: bool = False,
        connects: str = "",
    ) -> Response:
        """Send a browser away, to go on at `back` when it is signed in. See Departure for the rest.

        By a page, not by a redirect: browsers apply the policy of the form that was sent to where a redirect leads,
        and where that is only the provider knows.
        """
        provider = self._providers.get(name)
        if provider is None:
            raise InvalidRequestError("There is no such identity provider.")
        self._visits.admit(visit)
        now = self._visits.now()
        departure = Departure(back, int(now.timestamp()), client_id, age_s_max, second, connects)
        known_by = self._secrets(secrets.token_urlsafe(32))
        try:
            address = await provider.address(known_by, _wanted(departure))
        except AwayError as error:
            return self._away(visit, name, back, error)
        await self._note(known_by.state, name, visit, departure, now)
        page = self._pages.plain("leaving.html", visit.words, provider=self._title(visit, name), address=address)
        return self._pages.tied(page, visit.cookie)

    async def serve(self, request: HttpRequest) -> Response:
        """GET: somebody is back. POST: their one-time password."""
        visit = await self._visits.of(request)
        name = request.url.path.removeprefix(CALLBACK)
        if request.method == "POST":
            return await self._second(visit, name, await form_of(request))
        raw = request.scope["query_string"]
        if len(raw) > QUERY_BYTES_MAX:
            raise TooLargeError("The query is too long.")
        answer = parse(raw) if raw else {}
        state, now = answer.get("state", ""), self._visits.now()
        self._visits.admit(visit)
        departure = await self._workers.run(lambda: self._store.arrive(state, name, visit.cookie, now))
        if departure is None or departure.member_id:
            return self._unknown(visit, name)
        try:
            person = await self._providers[name].person(answer, self._secrets(state), _wanted(departure))
        except AwayError as error:
            return self._away(visit, name, departure.back, error)
        except NotProvenError as error:
            log.warning("provider_proved_nobody", provider=name, detail=str(error))
            return self._refused(visit, name, departure, error.rule, _PROBLEMS.get(error.rule, "provider_failed"))
        if departure.connects:
            return await self._connect(visit, name, departure, person)
        return await self._enter(visit, name, departure, person)

    async def _connect(self, visit: Visit, name: str, departure: Departure, person: Person) -> Response:
        session = visit.session
        if session is None or session.session_id != departure.connects:
            return self._refused(visit, name, departure, "SESSION_OTHER", "provider_expired")
        member_id, identity, now = session.member_id, self._identity(person), self._visits.now()
        record = self._journal.record("ConnectProvider", visit.by, data_subject=member_id, detail=name)
        if not await self._workers.run(lambda: self._store.connect(identity, member_id, name, now, record)):
            return self._refused(visit, name, departure, "IDENTITY_TAKEN", "provider_taken")
        return RedirectResponse(departure.back, 303, headers=NO_STORE)

    async def _enter(self, visit: Visit, name: str, departure: Departure, person: Person) -> Response:
        identity, now = self._identity(person), self._visits.now()
        member_id = await self._workers.run(lambda: self._store.member(identity, name))
        if member_id is None:
            return self._refused(visit, name, departure, "IDENTITY_UNKNOWN", "provider_unknown")
        signed_in_at = taken_for_signed_in_at(person.signed_in_at, now)
        proven = replace(departure, member_id=member_id, signed_in_s=int(signed_in_at.timestamp()))
        if departure.second or await self._workers.run(lambda: self._accounts.needs_second(member_id)):
            state = secrets.token_urlsafe(32)
            await self._note(state, name, visit, proven, now)
            return self._ask_second(visit, name, state)
        return await self._signed_in(visit, name, proven, "", BY_PROVIDER)

    async def _second(self, visit: Visit, name: str, form: Mapping[str, str]) -> Response:
        state, now = form.get("state", ""), self._visits.now()
        departure = None
        if not self._pages.forged(visit.cookie, _asking(name, state), form.get("csrf", "")):
            self._visits.admit(visit)
            departure = await self._workers.run(lambda: self._store.away(state, name, visit.cookie, now))
        if departure is None or not departure.member_id:
            return self._unknown(visit, name)
        member_id, shown = departure.member_id, form.get("second", "")
        if not await self._workers.run(lambda: self._accounts.second(member_id, shown)):
            self._visits.refuse(visit, departure.client_id)
            return self._ask_second(visit, name, state, "wrong")
        if await self._workers.run(lambda: self._store.arrive(state, name, visit.cookie, now)) is None:
            return self._unknown(visit, name)
        return await self._signed_in(visit, name, departure, STEP_UP_CONTEXT, BY_PROVIDER_AND_SECOND)

    async def _signed_in(self, visit: Visit, name: str, departure: Departure, context: str, methods: str) -> Response:
        at = datetime.fromtimestamp(departure.signed_in_s, UTC)
        found = await self._workers.run(lambda: self._accounts.session(departure.member_id, context, methods, at))
        if found is None:
            return self._refused(visit, name, departure, "ACCOUNT_NOT_FOUND", "provider_unknown")
        entered = await self._visits.enter(visit, found, departure.client_id, f"{methods} {name}")
        return self._visits.keep(entered, RedirectResponse(departure.back, 303, headers=NO_STORE))

    def _ask_second(self, visit: Visit, name: str, state: str, problem: str = "") -> Response:
        return self._pages.form(
            "second.html",
            visit.words,
            cookie=visit.cookie,
            about=_asking(name, state),
            action=f"{CALLBACK}{name}",
            problem=problem,
            status=403 if problem else 200,
            state=state,
        )

    def _refused(self, visit: Visit, name: str, departure: Departure, rule: str, problem: str) -> Response:
        """Tell the member what they can do about it, and the audit log which rule it was."""
        self._visits.refuse(visit, departure.client_id, rule)
        return self._not_signed_in(visit, name, departure.back, problem)

    def _unknown(self, visit: Visit, name: str) -> Response:
        """Any page can make a browser ask for this: it must not close the way in for whoever sits before it."""
        self._visits.refuse(visit, "", "STATE_UNKNOWN", counts=False)
        return self._not_signed_in(visit, name, _ACCOUNT, "provider_expired")

    def _away(self, visit: Visit, name: str, back: str, error: AwayError) -> Response:
        log.warning("provider_away", provider=name, detail=str(error))
        return self._not_signed_in(visit, name, back, "provider_away")

    def _not_signed_in(self, visit: Visit, name: str, back: str, problem: str) -> Response:
        title = self._title(visit, name)
        return self._pages.plain("not_signed_in.html", visit.words, 403, provider=title, back=back, problem=problem)

    def _title(self, visit: Visit, name: str) -> str:
        return self._providers[name].titles[visit.words["language"]]

    async def _note(self, state: str, name: str, visit: Visit, departure: Departure, now: datetime) -> None:
        ends = now + DEPARTURE_LIFE
        await self._workers.run(lambda: self._store.depart(state, name, visit.cookie, departure, ends))

    def _secrets(self, state: str) -> Secrets:
        """What belongs to a state. Nothing of it is kept: who can read the table cannot finish for anybody."""
        return Secrets(state, self._derived("nonce", state), self._derived("verifier", state))

    def _derived(self, what: str, state: str) -> str:
        mark = hmac.digest(self._key, f"{what}\0{state}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(mark).rstrip(b"=").decode()

    def _identity(self, person: Person) -> bytes:
        return hmac.digest(self._key, f"identity\0{person.authority}\0{person.subject}".encode(), hashlib.sha256)


def _asking(name: str, state: str) -> str:
    """What the form for a one-time password is good for."""
    return f"second\0{name}\0{state}"


def _wanted(departure: Departure) -> Wanted:
    return Wanted(departure.started_s, departure.age_s_max)
