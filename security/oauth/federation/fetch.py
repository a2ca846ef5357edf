"""Asking a provider over HTTPS: bounded in time and size, and never sent on to anywhere else."""

import ssl
from collections.abc import Mapping
from typing import Any, Final, Protocol

import aiohttp
from yarl import URL

from security.oauth.federation.port import AwayError
from security.tokens.strict import strict_json

# The gateway gives a page five seconds; two calls and the database must fit into them.
CALL_TIMEOUT_S: Final = 2.0
ANSWER_BYTES_MAX: Final = 256 * 1024
CONNECTIONS_MAX: Final = 16
_CHUNK_BYTES: Final = 16 * 1024


class Fetch(Protocol):
    """Status and JSON object of an answer below 500. AwayError for everything else."""

    async def __call__(
        self, url: str, form: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """GET, or POST where there is a form."""


class Fetcher:
    """A `Fetch` for one provider, with connections of its own."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=CONNECTIONS_MAX),
            timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __call__(
        self, url: str, form: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        sent = {"Accept": "application/json", "User-Agent": "isthmus"} | dict(headers or {})
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        method, content = "GET" if form is None else "POST", bytearray()
        try:
            async with self._session.request(
                method, URL(url, encoded=True), data=form, headers=sent, allow_redirects=False
            ) as answer:
                async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                    content += chunk
                    if len(content) > ANSWER_BYTES_MAX:
                        raise AwayError(f"an answer has more than {ANSWER_BYTES_MAX} bytes")
                status = answer.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            # Its text may hold the URL, and a URL of WeChat's holds the secret.
            raise AwayError(type(error).__name__) from None
        if status >= 500 or 300 <= status < 400:
            raise AwayError(f"it answered {status}")
        try:
            return status, strict_json(bytes(content))
        except (ValueError, RecursionError):
            raise AwayError("its answer is no JSON object") from None

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()
