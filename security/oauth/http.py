"""The OAuth endpoints over HTTP. Errors are those of RFC 6749; nothing that is sent here makes a 5xx of itself."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidRequestError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mesh.errors import MeshError
from mesh.logs import logger
from security.audit.port import AuditSink
from security.oauth import openid
from security.oauth.grants import Server
from security.oauth.journal import caller
from security.oauth.key_proofs import KeyProofs, ProofError
from security.oauth.limits import Limits, TooManyError
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
from security.oauth.pages import Pages
from security.oauth.parameters import (
    check_credentials,
    check_resource,
)
from security.oauth.protocol import Answer, Request
from security.oauth.pushed import push
from security.oauth.signing import SigningKeys
from security.oauth.words import words_for
from security.oauth.workers import BusyError, Workers

log = logger("oauth")

Serve = Callable[[HttpRequest], Awaitable[Response]]

REQUEST_TIMEOUT_S = 10.0
# Verifiers look again at least this often; a key is published a day before it signs.
JWKS_HEADERS = {"Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}


class Endpoints:
    """`interactive`: the pages by path. `scopes` are those that clients may ask for."""

    def __init__(
        self,
        server: Server,
        pages: Pages,
        interactive: Mapping[str, Serve],
        workers: Workers,
        keys: SigningKeys,
        sink: AuditSink,
        limits: Limits,
        proofs: KeyProofs,
        issuer: str,
        scopes: frozenset[str],
    ) -> None:
        self._server = server
        self._pages = pages
        self._interactive = interactive
        self._workers = workers
        self._keys = keys
        self._sink = sink
        self._limits = limits
        self._proofs = proofs
        self._issuer = issuer
        about = metadata(issuer, scopes | {openid.SCOPE})
        self._metadata = {
            "/.well-known/oauth-authorization-server": about,
            "/.well-known/openid-configuration": openid.metadata(about),
        }

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                *(Route(path, self._guarded(self._show_metadata), methods=["GET"]) for path in self._metadata),
                Route("/oauth/jwks.json", self._guarded(self._show_keys), methods=["GET"]),
                Route("/oauth/token", self._guarded(self._token), methods=["POST"]),
                Route("/oauth/revoke", self._guarded(self._revoke), methods=["POST"]),
                Route("/oauth/introspect", self._guarded(self._introspect), methods=["POST"]),
                Route("/oauth/par", self._guarded(self._push), methods=["POST"]),
                Route("/oauth/device_authorization", self._guarded(self._authorize_device), methods=["POST"]),
                *(
                    Route(path, self._guarded(serve), methods=["GET", "POST"])
                    for path, serve in self._interactive.items()
                ),
            ],
            exception_handlers={HTTPException: http_error},
        )

    def _guarded(self, endpoint: Serve) -> Serve:
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

    async def _show_metadata(self, request: HttpRequest) -> Response:
        return JSONResponse(self._metadata[request.url.path], headers=JWKS_HEADERS)

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
        answer = await self._workers.run(lambda: run(asked))
        if answer.status == 401:
            self._limits.failed(*source)
        elif answer.status < 400:
            self._limits.succeeded(*source)
        if answer.status >= 400 and isinstance(answer.body, Mapping):
            self._sink.enqueue(self._server.refused(event, asked, str(answer.body.get("error", ""))))
        return response_of(answer, NO_STORE)

    def _refuse(self, request: HttpRequest, error: OAuth2Error) -> Response:
        status, body, headers = error()
        if request.url.path in self._interactive and "text/html" in request.headers.get("accept", ""):
            words = words_for(request.headers.get("accept-language", ""))
            return self._pages.error(
                words, status, body.get("error", "invalid_request"), body.get("error_description", "")
            )
        nonce = {"DPoP-Nonce": error.nonce} if isinstance(error, ProofError) and error.nonce else {}
        return JSONResponse(body, status, {**dict(headers), **NO_STORE, **nonce})
