"""/oauth/device: where a person types the code that a device shows, signs in, and decides (RFC 8628)."""

from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from security.oauth.domain import Session, fold_user_code
from security.oauth.federation_page import FederationPage
from security.oauth.grants import Server
from security.oauth.limits import Limits, TooManyError
from security.oauth.messages import form_of
from security.oauth.pages import Pages
from security.oauth.parameters import QUERY_BYTES_MAX, parse
from security.oauth.protocol import Request
from security.oauth.session_store import SessionStore
from security.oauth.visits import Visit, Visits
from security.oauth.waiting_store import Device
from security.oauth.workers import Workers

PATH: Final = "/oauth/device"


class DevicePage:
    """Serves the endpoint. What was allowed a device before counts for nothing: it may be somebody else's."""

    def __init__(
        self,
        server: Server,
        sessions: SessionStore,
        visits: Visits,
        federation: FederationPage,
        pages: Pages,
        workers: Workers,
        limits: Limits,
    ) -> None:
        self._server = server
        self._sessions = sessions
        self._visits = visits
        self._federation = federation
        self._pages = pages
        self._workers = workers
        self._limits = limits

    async def serve(self, request: HttpRequest) -> Response:
        visit = await self._visits.of(request)
        raw = request.scope["query_string"]
        query = parse(raw[:QUERY_BYTES_MAX]) if raw else {}
        form = await form_of(request) if request.method == "POST" else query
        user_code = fold_user_code(form.get("user_code", ""))
        source = (visit.by.address, "device")
        wait_s = self._limits.wait_s(*source)
        if wait_s > 0:
            raise TooManyError(wait_s)
        now = self._visits.now()
        device = await self._workers.run(lambda: self._server.waiting.undecided(user_code, now)) if user_code else None
        if device is None:
            if user_code:
                # Guessing codes is slow, like guessing secrets.
                self._limits.failed(*source)
            return self._ask_code(visit, "unknown_code" if user_code else "")
        self._limits.succeeded(*source)
        if request.method != "POST":
            return await (self._consent(visit, device) if visit.session else self._sign_in(visit, device))
        what, session, denied = self._what(device), visit.session, form.get("decision") == "deny"
        if session is not None and not self._pages.forged(visit.cookie, visit.about(what), form.get("csrf", "")):
            return await self._decided(visit, device, None if form.get("decision") != "allow" else session)
        if self._visits.forged(visit, what, form):
            return await self._sign_in(visit, device, "expired")
        if denied:
            return await self._decided(visit, device, None)
        if "provider" in form:
            back = f"{PATH}?{urlencode({'user_code': device.user_code})}"
            return await self._federation.leave(visit, form["provider"], back=back, client_id=device.client_id)
        entered = await self._visits.sign_in(visit, form, client_id=device.client_id)
        if entered is None:
            return await self._sign_in(visit, device, "wrong")
        return self._visits.keep(entered, await self._consent(entered, device))

    def _what(self, device: Device) -> str:
        return f"device\0{device.user_code}"

    def _ask_code(self, visit: Visit, problem: str) -> Response:
        return self._pages.plain("device.html", visit.words, 403 if problem else 200, problem=problem)

    async def _sign_in(self, visit: Visit, device: Device, problem: str = "") -> Response:
        return await self._visits.sign_in_page(
            visit,
            action=PATH,
            what=self._what(device),
            problem=problem,
            client=await self._client(device),
            user_code=device.user_code,
        )

    async def _consent(self, visit: Visit, device: Device) -> Response:
        assert visit.session is not None
        return self._pages.form(
            "consent.html",
            visit.words,
            cookie=visit.cookie,
            about=visit.about(self._what(device)),
            action=PATH,
            client=await self._client(device),
            scopes=sorted(device.scope.split()),
            login=visit.session.called,
            user_code=device.user_code,
        )

    async def _client(self, device: Device) -> str:
        client = await self._workers.run(lambda: self._server.query_client(device.client_id))
        return client.registered.name if client else device.client_id

    async def _decided(self, visit: Visit, device: Device, session: Session | None) -> Response:
        asked = Request("POST", f"{self._server.issuer}{PATH}", {"client_id": device.client_id}, {}, visit.by)
        record = self._server.device_decided(asked, session.member_id if session else None)
        now = self._visits.now()

        def decide() -> bool:
            if not self._server.waiting.decide(device.user_code, session, now, record):
                return False
            if session is not None:
                # Not to be remembered, but to be seen and withdrawn.
                self._sessions.allow(session.member_id, device.client_id, frozenset(device.scope.split()), now)
            return True

        if not await self._workers.run(decide):
            return self._ask_code(visit, "unknown_code")
        return self._pages.plain("device_done.html", visit.words, allowed=session is not None)
