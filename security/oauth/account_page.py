"""/oauth/account: where a member sees their sessions, passkeys and consents, and ends any of them."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request as HttpRequest
from starlette.responses import RedirectResponse, Response

from security.oauth.domain import Session
from security.oauth.family_store import FamilyStore
from security.oauth.federation.store import FederationStore
from security.oauth.federation_page import FederationPage
from security.oauth.journal import Journal
from security.oauth.messages import NO_STORE, form_of
from security.oauth.pages import Pages
from security.oauth.passkeys import PasskeyError, Passkeys
from security.oauth.session_store import SessionStore
from security.oauth.signin import Accounts
from security.oauth.visits import Visit, Visits
from security.oauth.workers import Workers

PATH: Final = "/oauth/account"
_WHAT: Final = "account"
# What changes how a member signs in is for who has just signed in.
_FRESH: Final = frozenset({"add", "remove", "connect", "disconnect"})


class AccountPage:
    """Serves the endpoint."""

    def __init__(
        self,
        sessions: SessionStore,
        families: FamilyStore,
        passkeys: Passkeys,
        identities: FederationStore,
        accounts: Accounts,
        visits: Visits,
        federation: FederationPage,
        pages: Pages,
        workers: Workers,
        journal: Journal,
    ) -> None:
        self._sessions = sessions
        self._families = families
        self._passkeys = passkeys
        self._identities = identities
        self._accounts = accounts
        self._visits = visits
        self._federation = federation
        self._pages = pages
        self._workers = workers
        self._journal = journal

    async def serve(self, request: HttpRequest) -> Response:
        visit = await self._visits.of(request)
        if request.method != "POST":
            return await (self._shown(visit, visit.session) if visit.session else self._sign_in(visit))
        form = await form_of(request)
        session = visit.session
        if session is not None and not self._pages.forged(visit.cookie, visit.about(_WHAT), form.get("csrf", "")):
            return await self._change(visit, session, form)
        if self._visits.forged(visit, _WHAT, form):
            return await (self._shown(visit, session, "expired") if session else self._sign_in(visit, "expired"))
        if "provider" in form:
            # Who is signed in already was asked to do it again.
            age_s_max = 0 if session else None
            return await self._federation.leave(visit, form["provider"], back=PATH, age_s_max=age_s_max)
        entered = await self._visits.sign_in(visit, form)
        if entered is None:
            return await self._sign_in(visit, "wrong")
        return self._visits.keep(entered, RedirectResponse(PATH, 303, headers=NO_STORE))

    async def _change(self, visit: Visit, session: Session, form: Mapping[str, str]) -> Response:
        decision, name = form.get("decision", ""), form.get("name", "")
        if decision in _FRESH and not session.fresh(self._visits.now()):
            return await self._sign_in(visit, "again")
        if decision == "connect":
            # Signing in there anew: somebody may have left this browser signed in there as themselves.
            return await self._federation.leave(visit, name, back=PATH, age_s_max=0, connects=session.session_id)
        member_id, by = session.member_id, visit.by

        def record(event: str) -> Any:
            return self._journal.record(event, by, data_subject=member_id)

        now = self._visits.now()
        try:
            match decision:
                case "end":
                    await self._workers.run(lambda: self._sessions.end(member_id, name, record("SignOut")))
                case "end-all":
                    await self._workers.run(lambda: self._accounts.sign_out_everywhere(member_id, by))
                case "withdraw":
                    withdrawn = record("WithdrawConsent")
                    await self._workers.run(lambda: self._families.withdraw(member_id, name, now, withdrawn))
                case "remove":
                    await self._workers.run(lambda: self._passkeys.remove(member_id, name, record("RemovePasskey")))
                case "disconnect":
                    undone = record("DisconnectProvider")
                    await self._workers.run(lambda: self._identities.disconnect(member_id, name, undone))
                case "add":
                    made = form.get("credential", "")
                    added = record("AddPasskey")
                    await self._workers.run(
                        lambda: self._passkeys.add(member_id, made, visit.cookie, visit.agent, now, added)
                    )
        except PasskeyError as error:
            self._accounts.failed(str(error))
            return await self._shown(visit, session, "no_passkey")
        gone = decision == "end-all" or (decision == "end" and name == session.session_id)
        response = RedirectResponse(PATH, 303, headers=NO_STORE)
        if gone:
            response.delete_cookie(self._pages.session_cookie, path="/", secure=True, httponly=True, samesite="lax")
        return response

    async def _sign_in(self, visit: Visit, problem: str = "") -> Response:
        return await self._visits.sign_in_page(visit, action=PATH, what=_WHAT, problem=problem)

    async def _shown(self, visit: Visit, session: Session, problem: str = "") -> Response:
        now = self._visits.now()
        member_id = session.member_id
        passkey = ""
        if self._passkeys.offered:
            passkey = await self._workers.run(
                lambda: self._passkeys.making(member_id, session.called, visit.cookie, now)
            )
        return self._pages.form(
            "account.html",
            visit.words,
            cookie=visit.cookie,
            about=visit.about(_WHAT),
            action=PATH,
            passkey=passkey,
            problem=problem,
            status=403 if problem else 200,
            own=session,
            sessions=await self._workers.run(lambda: self._sessions.listed(member_id, now)),
            passkeys=await self._workers.run(lambda: self._passkeys.listed(member_id)),
            providers=self._visits.providers(visit),
            identities=await self._workers.run(lambda: self._identities.connected(member_id)),
            consents=await self._workers.run(lambda: self._sessions.consents(member_id)),
        )
