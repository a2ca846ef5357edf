"""Which key management system holds a room's key-encryption keys, and how it is reached."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mesh.settings import ProcessSettings
from security.keys.port import Kms

_NEEDED = {
    "keyring": (),
    "transit": ("transit_url", "transit_token"),
    "hsm": ("hsm_module", "hsm_token", "hsm_pin"),
    "google": ("google_ring", "google_credentials"),
}


class KmsSettings(ProcessSettings):
    """Environment ISTHMUS_*. Secrets are in files (0600), never in the environment."""

    kms: Literal["keyring", "transit", "hsm", "google"] = "keyring"
    # The keyring file, shared by all replicas. Default: data/keys/WORKLOAD/keyring.json below the home.
    keyring: Path | None = None
    # A file with the passphrase that the keyring is sealed under; without one, a key file made beside.
    keyring_passphrase: Path | None = None
    # HashiCorp Vault: https://vault.example:8200, its CA where it is not the system's, and a file with the token.
    transit_url: str = ""
    transit_ca: Path | None = None
    transit_mount: str = "transit"
    # TRANSIT_KEY and TRANSIT_KEY-index. Default: isthmus-WORKLOAD.
    transit_key: str = ""
    transit_token: Path | None = None
    # PKCS#11: the module's library, the token's label, the keys' label (isthmus-WORKLOAD), a file with the PIN.
    hsm_module: Path | None = None
    hsm_token: str = ""
    hsm_label: str = ""
    hsm_pin: Path | None = None
    # Google Cloud KMS: projects/P/locations/L/keyRings/R, the key GOOGLE_KEY (isthmus-WORKLOAD) and GOOGLE_KEY-index in
    # it, a file with a service account's key, and an endpoint where it is not the global one.
    google_ring: Annotated[str, Field(pattern=r"^$|^projects/[^/]+/locations/[^/]+/keyRings/[^/]+$")] = ""
    google_key: str = ""
    google_credentials: Path | None = None
    google_endpoint: str = "https://cloudkms.googleapis.com"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [f"ISTHMUS_{name.upper()}" for name in _NEEDED[self.kms] if not getattr(self, name)]
        if missing:
            raise ValueError(f"ISTHMUS_KMS={self.kms} needs {', '.join(missing)}")
        return self

    async def open_kms(self) -> Kms:
        """The key management system, looked at and ready. Raises KmsAway, KmsRefused or KeyringUnusable."""
        keys = self.home / "data" / "keys" / self.workload
        name = f"isthmus-{self.workload}"
        # Each is loaded only where it is used.
        if self.kms == "transit":
            from security.keys.transit import TransitKms

            assert self.transit_token is not None
            transit = TransitKms(
                self.transit_url, self.transit_key or name, self.transit_token, self.transit_mount, self.transit_ca
            )
            await transit.open()
            return transit
        if self.kms == "hsm":
            from security.keys.hsm import HsmKms

            assert self.hsm_module is not None
            assert self.hsm_pin is not None
            hsm = HsmKms(self.hsm_module, self.hsm_token, self.hsm_label or name, self.hsm_pin, keys / "hsm")
            await hsm.open()
            return hsm
        if self.kms == "google":
            from security.keys.google_cloud import GoogleCloudKms

            assert self.google_credentials is not None
            google = GoogleCloudKms(
                self.google_ring, self.google_key or name, self.google_credentials, self.google_endpoint
            )
            await google.open()
            return google
        from security.keys.keyring import Keyring
        from security.keys.seal import PassphraseSeal

        seal = PassphraseSeal(self.keyring_passphrase) if self.keyring_passphrase else None
        return Keyring.open(self.keyring or keys / "keyring.json", seal)
