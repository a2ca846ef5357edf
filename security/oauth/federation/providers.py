"""The providers of the settings' file, put together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mesh.clock import Clock
from security.oauth.federation import settings
from security.oauth.federation.fetch import Fetcher
from security.oauth.federation.openid import OpenIdProvider
from security.oauth.federation.port import Provider
from security.oauth.federation.wechat import WechatProvider

CALLBACK: Final = "/oauth/callback/"


class Providers:
    """By name, in the order of the file. Without a file there are none. FailedPrecondition for a bad file."""

    def __init__(self, file: Path | None, issuer: str, clock: Clock) -> None:
        self._fetchers: list[Fetcher] = []
        found: dict[str, Provider] = {}
        wanted = settings.read(file) if file else {}
        for name, one in wanted.items():
            assert file is not None
            fetcher = Fetcher(settings.tls_of(name, one, file))
            self._fetchers.append(fetcher)
            back = f"{issuer}{CALLBACK}{name}"
            if isinstance(one, settings.OpenIdSettings):
                found[name] = OpenIdProvider(one, settings.proof_of(name, one, file), back, fetcher, clock)
            else:
                secret = settings.secret_of(name, one.secret_file, file)
                found[name] = WechatProvider(one, secret, back, fetcher, clock)
        self.named: Mapping[str, Provider] = found

    async def close(self) -> None:
        """Close their connections."""
        for fetcher in self._fetchers:
            await fetcher.close()
