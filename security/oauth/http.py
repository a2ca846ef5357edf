"""The OAuth endpoints over HTTP. Errors are those of RFC 6749; nothing that is sent here makes a 5xx of itself."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlencode

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidRequestError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mesh.errors import MeshError
from mesh.logs import logger
from security.audit.port import AuditSink
from security.oauth.domain import fold_user_code
from security.oauth.grants import AuthorizationCode, Server
from security.oauth.journal import caller
from security.oauth.key_proofs import KeyProofs, ProofError
from security.oauth.limits import Limits
from security.oauth.messages import (
    NO_STORE,
    form_of,
    http_error,
    response_of,
    single_header,
    slow_down,
    unavailable,
)
from security.oauth.metadata import metadata
from security.oauth.pages import COOKIE, DEVICE_FORM, Pages
from security.oauth.parameters import (
    QUERY_BYTES_MAX,
    TooLargeError,
    check_credentials,
    check_resource,
    parse,
)
from security.oauth.protocol import Answer, Request
from security.oauth.pushed import push, pushed_request
from security.oauth.signin import Accounts
from security.oauth.signing import SigningKeys
from security.oauth.waiting_store import Device
from security.oauth.words import words_for
from security.tokens.admission import STEP_UP_CONTEXT

log = logger("oauth")

T = TypeVar("T")

THREADS = 8
WAITING_MAX = 64
REQUEST_TIMEOUT_S = 10.0
COOKIE_LENGTH_MAX = 128
# Verifiers look again at least this often; a key is published a day before it signs.
JWKS_HEADERS = {"Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}


class BusyError(Exception):
    """More requests wait than will be served in time."""


class TooManyError(Exception):
    """This source asks too often, or has failed too often."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"wait {wait_s:.0f} s")
        self.wait_s = wait_s


class Endpoints:
    """`scopes` are those that clients may ask for."""

    def __init__(
        self,
        server: Server,
        accounts: Accounts,
        pages: Pages,
        keys: SigningKeys,
        sink: AuditSink,
        limits: Limits,
        proofs: KeyProofs,
        issuer: str,
        scopes: frozenset[str],
    ) -> None:
        self._server = server
        self._accounts = accounts
        self._pages = pages
        self._keys = keys
        self._sink = sink
        self._limits = limits
        self._proofs = proofs
        self._issuer = issuer
        self._metadata = metadata(issuer, scopes)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="oauth")
        self._waiting = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/oauth-authorization-server", self._guarded(self._show_metadata), methods=["GET"]),
                Route("/oauth/jwks.json", self._guarded(self._show_keys), methods=["GET"]),
                Route("/oauth/token", self._guarded(self._token), methods=["POST"]),
                Route("/oauth/revoke", self._guarded(self._revoke), methods=["POST"]),
                Route("/oauth/introspect", self._guarded(self._introspect), methods=["POST"]),
                Route("/oauth/par", self._guarded(self._push), methods=["POST"]),
                Route("/oauth/device_authorization", self._guarded(self._authorize_device), methods=["POST"]),
                Route("/oauth/device", self._guarded(self._device), methods=["GET", "POST"]),
                Route("/oauth/authorize", self._guarded(self._authorize), methods=["GET", "POST"]),
            ],
            exception_handlers={HTTPException: http_error},
        )

    def close(self) -> None:
        """Let go of the threads; what still runs in them is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _guarded(
        self, endpoint: Callable[[HttpRequest], Awaitable[Response]]
    ) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def guarded(request: HttpRequest) -> Response:
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    return await endpoint(request)
            except OAuth2Error as error:
                return self._refuse(request, error)
            except TooManyError as error:
                return slow_down(error.wait_s)
            except ClientDisconnect:
                return Response(status_code=400)
            except (BusyError, TimeoutError):
                return unavailable("too many requests")
            except MeshError as error:
                log.error("request_failed", path=request.url.path, reason=error.reason)
                return unavailable("a part of this service is away")
            except Exception:
                log.exception("request_failed", path=request.url.path)
                return JSONResponse({"error": "server_error"}, 500, NO_STORE)

        return guarded

    async def _show_metadata(self, _: HttpRequest) -> Response:
        return JSONResponse(self._metadata, headers=JWKS_HEADERS)

    async def _show_keys(self, _: HttpRequest) -> Response:
        body = '{"keys":[' + ",".join(self._keys.published()) + "]}"
        return Response(body, media_type="application/jwk-set+json", headers=JWKS_HEADERS)

    async def _token(self, request: HttpRequest) -> Response:
        proof = single_header(request, "dpop")

        def run(asked: Request) -> Answer:
            if "grant_type" not in asked.payload.data:
                raise InvalidRequestError("Missing 'grant_type' in request.")
            check_resource(asked.payload.data, self._issuer)
            if proof is not None:
                asked.key_thumbprint = self._proofs.check(proof, asked.uri)
            answer: Answer = self._server.create_token_response(asked)
            return answer

        return await self._proven(request, "IssueToken", run)

    async def _revoke(self, request: HttpRequest) -> Response:
        return await self._proven(
            request, "RevokeToken", lambda asked: self._server.create_endpoint_response("revocation", asked)
        )

    async def _introspect(self, request: HttpRequest) -> Response:
        return await self._proven(
            request, "IntrospectToken", lambda asked: self._server.create_endpoint_response("introspection", asked)
        )

    async def _push(self, request: HttpRequest) -> Response:
        return await self._proven(request, "PushRequest", lambda asked: push(self._server, asked))

    async def _authorize_device(self, request: HttpRequest) -> Response:
        return await self._proven(
            request,
            "AuthorizeDevice",
            lambda asked: self._server.create_endpoint_response("device_authorization", asked),
        )

    async def _proven(self, request: HttpRequest, event: str, run: Callable[[Request], Answer]) -> Response:
        """An endpoint at which clients prove themselves: bounded for each source, and refusals go on record."""
        if request.scope["query_string"]:
            raise InvalidRequestError("The parameters belong into the body.")
        parameters = await form_of(request)
        header = single_header(request, "authorization")
        client_id = check_credentials(header, parameters)
        by = caller(request.headers)
        headers = {} if header is None else {"Authorization": header}
        asked = Request("POST", f"{self._issuer}{request.url.path}", parameters, headers, by)
        source = (by.address, client_id)
        wait_s = self._limits.wait_s(*source)
        if wait_s > 0:
            raise TooManyError(wait_s)
        answer = await self._in_thread(lambda: run(asked))
        if answer.status == 401:
            self._limits.failed(*source)
        elif answer.status < 400:
            self._limits.succeeded(*source)
        if answer.status >= 400 and isinstance(answer.body, Mapping):
            self._sink.enqueue(self._server.refused(event, asked, str(answer.body.get("error", ""))))
        return response_of(answer, NO_STORE)

    async def _authorize(self, request: HttpRequest) -> Response:
        raw = request.scope["query_string"]
        if len(raw) > QUERY_BYTES_MAX:
            raise TooLargeError("The query is too long.")
        parameters = parse(raw)
        if "request_uri" in parameters:
            pushed = parameters
            parameters = await self._in_thread(lambda: pushed_request(self._server, pushed))
        check_resource(parameters, self._issuer)
        asked = Request("GET", f"{self._issuer}/oauth/authorize", parameters, {}, caller(request.headers))
        try:
            grant = await self._in_thread(lambda: self._server.get_consent_grant(asked))
        except OAuth2Error as error:
            if not error.redirect_uri:
                raise
            return self._send_back(self._server.handle_error_response(asked, error))
        words = words_for(request.headers.get("accept-language", ""))
        # One spelling of the query, so that the form's token covers what will be used and nothing else.
        query = urlencode(sorted(parameters.items()))
        cookie = request.cookies.get(COOKIE, "")[:COOKIE_LENGTH_MAX] or None
        if request.method != "POST":
            return self._page(words, grant, query, cookie)
        form = await form_of(request)
        if self._pages.forged(cookie, query, form.get("csrf", "")):
            return self._page(words, grant, query, cookie, "expired")
        member = None
        if form.get("decision") != "deny":
            login, password = form.get("login", ""), form.get("password", "")
            second = form.get("second", "")
            # RFC 9470, section 4: the app was told so where it called.
            wanted = STEP_UP_CONTEXT in parameters.get("acr_values", "").split()
            member = await self._in_thread(
                lambda: self._accounts.sign_in(login, password, second, require_second=wanted)
            )
            if member is None:
                self._sink.enqueue(self._server.refused("SignIn", asked, "SIGN_IN_FAILED"))
                return self._page(words, grant, query, cookie, "wrong")
        answer = await self._in_thread(
            lambda: self._server.create_authorization_response(asked, grant_user=member, grant=grant)
        )
        return self._send_back(answer)

    async def _device(self, request: HttpRequest) -> Response:
        """Where a person types the code that a device shows, signs in, and decides."""
        raw = request.scope["query_string"]
        query = parse(raw[:QUERY_BYTES_MAX]) if raw else {}
        cookie = request.cookies.get(COOKIE, "")[:COOKIE_LENGTH_MAX] or None
        words = words_for(request.headers.get("accept-language", ""))
        form = await form_of(request) if request.method == "POST" else query
        user_code = fold_user_code(form.get("user_code", ""))
        by = caller(request.headers)
        source = (by.address, "device")
        wait_s = self._limits.wait_s(*source)
        if wait_s > 0:
            raise TooManyError(wait_s)
        now = datetime.now(UTC)
        device = await self._in_thread(lambda: self._server.waiting.undecided(user_code, now)) if user_code else None
        if user_code and device is None:
            # Guessing codes is slow, like guessing secrets.
            self._limits.failed(*source)
        if device is None or request.method != "POST":
            problem = "unknown_code" if user_code and device is None else ""
            return await self._device_page(words, device, user_code, cookie, problem)
        if self._pages.forged(cookie, DEVICE_FORM, form.get("csrf", "")):
            return await self._device_page(words, device, user_code, cookie, "expired")
        asked = Request("POST", f"{self._issuer}/oauth/device", {"client_id": device.client_id}, {}, by)
        member_id, context = None, ""
        if form.get("decision") != "deny":
            login, password, second = (form.get(name, "") for name in ("login", "password", "second"))
            member = await self._in_thread(lambda: self._accounts.sign_in(login, password, second))
            if member is None:
                self._sink.enqueue(self._server.refused("SignIn", asked, "SIGN_IN_FAILED"))
                wrong = "wrong"
                return await self._device_page(words, device, user_code, cookie, wrong)
            member_id, now, context = member.member_id, member.signed_in_at, member.context
        self._limits.succeeded(*source)
        record = self._server.device_decided(asked, member_id)
        decided = await self._in_thread(lambda: self._server.waiting.decide(user_code, member_id, now, context, record))
        if not decided:
            return await self._device_page(words, None, user_code, cookie, "unknown_code")
        return self._pages.device_done(words, member_id is not None)

    async def _device_page(
        self, words: Mapping[str, str], device: Device | None, user_code: str, cookie: str | None, problem: str
    ) -> Response:
        client = await self._in_thread(lambda: self._server.query_client(device.client_id)) if device else None
        return self._pages.device(
            words=words,
            client=client.registered.name if client else "",
            scopes=device.scope.split() if device else (),
            user_code=user_code,
            query=DEVICE_FORM,
            cookie=cookie,
            problem=problem,
            status=403 if problem else 200,
        )

    def _page(
        self, words: Mapping[str, str], grant: AuthorizationCode, query: str, cookie: str | None, problem: str = ""
    ) -> Response:
        return self._pages.sign_in(
            words=words,
            client=grant.request.client.registered.name,
            scopes=grant.request.scope.split(),
            redirect_uri=grant.redirect_uri,
            query=query,
            cookie=cookie,
            problem=problem,
            status=403 if problem else 200,
        )

    def _send_back(self, answer: Answer) -> Response:
        """Redirect with `iss` (RFC 9207) and 303, which no browser repeats as a POST (RFC 9700, section 4.12)."""
        if answer.location is None:
            return response_of(answer, NO_STORE)
        separator = "&" if "?" in answer.location else "?"
        target = f"{answer.location}{separator}{urlencode({'iss': self._issuer})}"
        return RedirectResponse(target, 303, headers={**NO_STORE, "Referrer-Policy": "no-referrer"})

    def _refuse(self, request: HttpRequest, error: OAuth2Error) -> Response:
        status, body, headers = error()
        if request.url.path == "/oauth/authorize" and "text/html" in request.headers.get("accept", ""):
            words = words_for(request.headers.get("accept-language", ""))
            return self._pages.error(
                words, status, body.get("error", "invalid_request"), body.get("error_description", "")
            )
        nonce = {"DPoP-Nonce": error.nonce} if isinstance(error, ProofError) and error.nonce else {}
        return JSONResponse(body, status, {**dict(headers), **NO_STORE, **nonce})

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Authlib and SQLAlchemy wait; they do it in a bounded pool with a bounded queue."""
        if self._waiting >= WAITING_MAX:
            raise BusyError
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
