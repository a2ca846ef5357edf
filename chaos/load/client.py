"""The public's way in: HTTPS to the edge gateway, TLS 1.3, connections kept alive, a bounded number at once."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from chaos.load.outcomes import CallFailed, Outcome

# No crawler: a browser's beginning, then our own name.
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) Storefront/1.0"
TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read to its end. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    # Each Set-Cookie on its own.
    cookies: tuple[str, ...] = ()

    def refused(self) -> CallFailed:
        """This answer as a failure: its status, and the reason of its problem document when it is short."""
        return CallFailed(f"HTTP {self.status} {self.body[:200].decode('utf-8', 'replace')}".strip())


class PublicClient:
    """Asynchronous context manager. Each request is sent once; what to do about a failure is its caller's business."""

    def __init__(self, url: str, root_certificate: Path, connections_max: int) -> None:
        self.url = url.rstrip("/")
        self._root_certificate = root_certificate
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(cafile=str(self._root_certificate))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=self._connections_max),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            headers={"user-agent": USER_AGENT},
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("accept-encoding",),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "the client is used as a context manager"
        return self._session

    async def send(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request and follow no redirect. `target` is a path, or a whole URL that the mesh gave out.

        Raises:
            CallFailed: no answer came within TIMEOUT_S; its outcome is UNKNOWN.
        """
        url = URL(target if target.startswith("https://") else self.url + target, encoded=True)
        try:
            async with self.session.request(method, url, data=body, headers=headers, allow_redirects=False) as response:
                names = {name.lower(): value for name, value in response.headers.items()}
                cookies = tuple(response.headers.getall("set-cookie", ()))
                return Answer(response.status, names, await response.read(), cookies)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise CallFailed(f"no answer: {type(error).__name__}", Outcome.UNKNOWN) from error
