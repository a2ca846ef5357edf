"""/oauth/authorize: a member signs in, unless they have, and decides, unless they have decided that before."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidRequestError
from starlette.requests import Request as HttpRequest
from starlette.responses import RedirectResponse, Response

from security.oauth.domain import Session, remembers
from security.oauth.federation_page import FederationPage
from security.oauth.grants import AuthorizationCode, Server
from security.oauth.messages import NO_STORE, form_of, response_of
from security.oauth.pages import Pages
from security.oauth.parameters import QUERY_BYTES_MAX, TooLargeError, check_resource, parse
from security.oauth.protocol import Answer, Member, Request
from security.oauth.pushed import pushed_request
from security.oauth.session_store import SessionStore
from security.oauth.visits import Visit, Visits
from security.oauth.workers import Workers
from security.tokens.admission import STEP_UP_CONTEXT

PATH: Final = "/oauth/authorize"
# OpenID Connect Core, section 3.1.2.1; `select_account` has nothing to select from.
PROMPTS: Final = frozenset({"none", "login", "consent"})
AGE_S_MAX: Final = 10_000_000


class _SignInRequired(OAuth2Error):  # type: ignore[misc]
    error = "login_required"


class _ConsentRequired(OAuth2Error):  # type: ignore[misc]
    error = "consent_required"


class _RequestNotSupported(OAuth2Error):  # type: ignore[misc]
    """A request object would say what counts, and nobody reads it here (OpenID Connect Core, section 3.1.2.6)."""

    error = "request_not_supported"


@dataclass(frozen=True)
class _Asked:
    """An authorization request that can be followed. query: one spelling of it, which its forms are bound to."""

    request: Request
    grant: AuthorizationCode
    query: str
    prompt: frozenset[str]
    context: str
    age_s_max: int | None

    @property
    def afterwards(self) -> str:
        """Where to go on after signing in: the same, without what asks for just that."""
        left = {name: value for name, value in parse_qsl(self.query) if name not in ("prompt", "max_age")}
        prompt = {"prompt": " ".join(sorted(self.prompt - {"login"}))}
        return f"{PATH}?{urlencode(sorted((left | (prompt if prompt['prompt'] else {})).items()))}"

    @property
    def scopes(self) -> frozenset[str]:
        return frozenset(self.request.scope.split())

    @property
    def client_id(self) -> str:
        return str(self.request.client.get_client_id())

    @property
    def client_name(self) -> str:
        return str(self.request.client.registered.name)


class AuthorizePage:
    """Serves the endpoint; `issuer` is how the outside calls this server."""

    def __init__(
        self,
        server: Server,
        sessions: SessionStore,
        visits: Visits,
        federation: FederationPage,
        pages: Pages,
        workers: Workers,
        issuer: str,
    ) -> None:
        self._server = server
        self._sessions = sessions
        self._visits = visits
        self._federation = federation
        self._pages = pages
        self._workers = workers
        self._issuer = issuer

    async def serve(self, request: HttpRequest) -> Response:
        visit = await self._visits.of(request)
        raw = request.scope["query_string"]
        if len(raw) > QUERY_BYTES_MAX:
            raise TooLargeError("The query is too long.")
        parameters = parse(raw)
        if "request_uri" in parameters:
            pushed = parameters
            parameters = await self._workers.run(lambda: pushed_request(self._server, pushed))
        check_resource(parameters, self._issuer)
        wanted = Request("GET", f"{self._issuer}{PATH}", parameters, {}, visit.by)
        try:
            grant = await self._workers.run(lambda: self._server.get_consent_grant(wanted))
        except OAuth2Error as error:
            if not error.redirect_uri:
                raise
            return self._send_back(self._server.handle_error_response(wanted, error))
        asked = _Asked(
            wanted,
            grant,
            urlencode(sorted(parameters.items())),
            frozenset(parameters.get("prompt", "").split()) & PROMPTS,
            STEP_UP_CONTEXT if STEP_UP_CONTEXT in parameters.get("acr_values", "").split() else "",
            _age(parameters),
        )
        if "request" in parameters:
            return self._fail(asked, _RequestNotSupported())
        if request.method == "POST":
            return await self._sent(visit, asked, await form_of(request))
        return await self._shown(visit, asked)

    async def _shown(self, visit: Visit, asked: _Asked) -> Response:
        session = visit.session
        now = self._visits.now()
        if (
            session is None
            or "login" in asked.prompt
            or not session.suffices(now, context=asked.context, age_s_max=asked.age_s_max)
        ):
            return self._fail(asked, _SignInRequired()) if "none" in asked.prompt else await self._sign_in(visit, asked)
        return await self._signed_in(visit, asked, session)

    async def _sent(self, visit: Visit, asked: _Asked, form: Mapping[str, str]) -> Response:
        decision = form.get("decision", "")
        session = visit.session
        if session is not None and not self._pages.forged(visit.cookie, visit.about(asked.query), form.get("csrf", "")):
            if decision == "allow":
                return await self._allowed(asked, session, remember=True)
            return await self._denied(asked)
        if self._visits.forged(visit, asked.query, form):
            return await self._sign_in(visit, asked, "expired")
        if decision == "deny":
            return await self._denied(asked)
        if "provider" in form:
            return await self._federation.leave(
                visit,
                form["provider"],
                back=asked.afterwards,
                client_id=asked.client_id,
                age_s_max=0 if "login" in asked.prompt else asked.age_s_max,
                second=bool(asked.context),
            )
        entered = await self._visits.sign_in(visit, form, client_id=asked.client_id, require_second=bool(asked.context))
        if entered is None or entered.session is None:
            return await self._sign_in(visit, asked, "wrong")
        return self._visits.keep(entered, await self._signed_in(entered, asked, entered.session))

    async def _sign_in(self, visit: Visit, asked: _Asked, problem: str = "") -> Response:
        return await self._visits.sign_in_page(
            visit,
            action=f"{PATH}?{asked.query}",
            what=asked.query,
            problem=problem,
            client=asked.client_name,
            redirect_uri=asked.grant.redirect_uri,
            step_up=bool(asked.context),
        )

    async def _signed_in(self, visit: Visit, asked: _Asked, session: Session) -> Response:
        allowed = await self._workers.run(lambda: self._sessions.allowed(session.member_id, asked.client_id))
        if asked.scopes <= allowed and remembers(asked.grant.redirect_uri) and "consent" not in asked.prompt:
            return await self._allowed(asked, session, remember=False)
        if "none" in asked.prompt:
            return self._fail(asked, _ConsentRequired())
        return self._pages.form(
            "consent.html",
            visit.words,
            cookie=visit.cookie,
            about=visit.about(asked.query),
            action=f"{PATH}?{asked.query}",
            redirect_uri=asked.grant.redirect_uri,
            client=asked.client_name,
            scopes=sorted(asked.scopes),
            login=session.called,
            user_code="",
        )

    async def _allowed(self, asked: _Asked, session: Session, *, remember: bool) -> Response:
        member = Member.of(session)

        def answer() -> Answer:
            if remember:
                self._sessions.allow(session.member_id, asked.client_id, asked.scopes, self._visits.now())
            made: Answer = self._server.create_authorization_response(
                asked.request, grant_user=member, grant=asked.grant
            )
            return made

        return self._send_back(await self._workers.run(answer))

    async def _denied(self, asked: _Asked) -> Response:
        return self._send_back(
            await self._workers.run(
                lambda: self._server.create_authorization_response(asked.request, grant_user=None, grant=asked.grant)
            )
        )

    def _fail(self, asked: _Asked, error: OAuth2Error) -> Response:
        error.redirect_uri = asked.grant.redirect_uri
        error.state = asked.request.payload.state
        return self._send_back(self._server.handle_error_response(asked.request, error))

    def _send_back(self, answer: Answer) -> Response:
        """Redirect with `iss` (RFC 9207) and 303, which no browser repeats as a POST (RFC 9700, section 4.12)."""
        if answer.location is None:
            return response_of(answer, NO_STORE)
        separator = "&" if "?" in answer.location else "?"
        target = f"{answer.location}{separator}{urlencode({'iss': self._issuer})}"
        return RedirectResponse(target, 303, headers={**NO_STORE, "Referrer-Policy": "no-referrer"})


def _age(parameters: Mapping[str, str]) -> int | None:
    text = parameters.get("max_age")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) > AGE_S_MAX:
        raise InvalidRequestError("The 'max_age' must be a number of seconds.")
    return int(text)
