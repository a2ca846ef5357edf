"""What an authorization server is told by its environment."""

from pathlib import Path

from pydantic import Field

from mesh.database.settings import DatabaseSettings


class OAuthSettings(DatabaseSettings):
    """Environment ISTHMUS_*. The keyring and the keys of seeded clients lie below `home`; the replicas share them."""

    # Tokens are sent back to this page of the shop, besides to loopback addresses of native apps.
    shop_callback: str = "https://shop.isthmus.example/callback"

    # A client with a shared secret, `sandbox`, for trying things out. All others have a key or a certificate.
    sandbox_client: bool = False
    # Where that client may have members sent back to, so that it can sign them in here by OpenID Connect.
    sandbox_callback: str = ""

    # Ids of seeded clients that may have tokens which are bound to nothing, so that whoever sees one on its way can use
    # it. All others prove a key or a certificate with every request for one (DPoP, mTLS); the sandbox need not.
    bearer_clients: frozenset[str] = frozenset()

    # The file of outside identity providers (docs/runbooks/identity-providers.md); without one there are none.
    identity_providers: Path | None = None

    # Of one client at one address, in each replica.
    token_requests_per_s: float = Field(default=50.0, gt=0)
    token_requests_burst: float = Field(default=200.0, ge=1)

    @property
    def keyring(self) -> Path:
        return self.home / "run" / "oauth" / "keyring.json"

    @property
    def clients(self) -> Path:
        return self.home / "run" / "oauth" / "clients"
