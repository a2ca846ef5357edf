"""The file of identity providers, TOML: a table for each, by the name that its callback has in its path."""

import re
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from mesh.client.assertion import AssertionKey
from mesh.errors import FailedPrecondition

PROVIDERS_MAX: Final = 8
FILE_BYTES_MAX: Final = 64 * 1024
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SECRET: Final = re.compile(r"[\x21-\x7e]{8,512}")


def https(url: str) -> str:
    """An address over https without credentials or fragment. ValueError for any other."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.fragment or not url.isascii():
        raise ValueError("must be an https:// address without credentials or fragment")
    return url


def _issuer(url: str) -> str:
    # OpenID Connect Discovery, section 3.
    if urlsplit(url).query:
        raise ValueError("an issuer has no query")
    return https(url)


class _ProviderSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    # As its button says, in English and in Chinese.
    title: str = Field(min_length=1, max_length=40)
    title_zh: str = Field(default="", max_length=40)
    # The roots that its certificate is judged by, where they are not the system's.
    ca_file: Path | None = None
    tls_min: Literal["1.2", "1.3"] = "1.3"

    @property
    def titles(self) -> Mapping[str, str]:
        return {"en": self.title, "zh": self.title_zh or self.title}


class OpenIdSettings(_ProviderSettings):
    """OpenID Connect: everything else is discovered at ISSUER/.well-known/openid-configuration."""

    kind: Literal["openid"]
    issuer: Annotated[str, AfterValidator(_issuer)]
    client_id: str = Field(pattern=r"^[\x21-\x7e]{1,256}$")
    # One of the two, beside this file unless its path is absolute: the secret alone; or the client's private key (PEM,
    # P-256), whose public half is registered there (private_key_jwt).
    secret_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _one_proof(self) -> Self:
        if (self.secret_file is None) is (self.key_file is None):
            raise ValueError("a client proves itself by a secret_file or by a key_file, and not by both")
        return self


class WechatSettings(_ProviderSettings):
    """A website application at WeChat's open platform."""

    kind: Literal["wechat"]
    appid: str = Field(pattern="^[A-Za-z0-9]{4,32}$")
    # A file that holds the secret alone, beside this file unless its path is absolute.
    secret_file: Path
    # unionid is one person in all applications of the owner, openid in this one alone.
    subject: Literal["unionid", "openid"] = "unionid"
    connect_url: Annotated[str, AfterValidator(https)] = "https://open.weixin.qq.com/connect/qrconnect"
    api_url: Annotated[str, AfterValidator(https)] = "https://api.weixin.qq.com"


AnySettings = OpenIdSettings | WechatSettings
_ADAPTER: Final[TypeAdapter[AnySettings]] = TypeAdapter(Annotated[AnySettings, Field(discriminator="kind")])


def read(file: Path) -> Mapping[str, AnySettings]:
    """The providers by name, in the order of the file. FailedPrecondition for a file that says anything doubtful."""
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise _invalid(f"it has more than {FILE_BYTES_MAX} bytes")
        tables = tomllib.loads(content.decode())
    except (OSError, ValueError) as error:
        raise _invalid(f"it cannot be read: {type(error).__name__}") from error
    if len(tables) > PROVIDERS_MAX:
        raise _invalid(f"it names more than {PROVIDERS_MAX} providers")
    return {name: _one(name, table) for name, table in tables.items()}


def proof_of(name: str, provider: OpenIdSettings, file: Path) -> str | AssertionKey:
    """What proves our client at a provider of this file: its secret, or its key. FailedPrecondition without one."""
    if provider.key_file is None:
        assert provider.secret_file is not None
        return secret_of(name, provider.secret_file, file)
    try:
        return AssertionKey(provider.client_id, file.parent / provider.key_file)
    except (OSError, ValueError, JoseError) as error:
        raise _invalid(f"the key_file of '{name}' holds no private P-256 key that can be read") from error


def secret_of(name: str, secret_file: Path, file: Path) -> str:
    """The secret of a provider of this file. FailedPrecondition without one."""
    try:
        secret = (file.parent / secret_file).read_text().strip()
    except (OSError, ValueError) as error:
        raise _invalid(f"the secret_file of '{name}' cannot be read") from error
    if not _SECRET.fullmatch(secret):
        raise _invalid(f"the secret of '{name}' must have 8 to 512 visible characters of ASCII")
    return secret


def tls_of(name: str, provider: AnySettings, file: Path) -> ssl.SSLContext:
    """How a provider of this file is connected to. FailedPrecondition without its roots."""
    try:
        context = ssl.create_default_context(cafile=file.parent / provider.ca_file if provider.ca_file else None)
    except (OSError, ValueError) as error:
        raise _invalid(f"the ca_file of '{name}' cannot be read") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if provider.tls_min == "1.3" else ssl.TLSVersion.TLSv1_2
    return context


def _one(name: str, table: Any) -> AnySettings:
    if not _NAME.fullmatch(name):
        raise _invalid(f"'{name[:40]}' is no name: small letters, digits and dashes, at most 32")
    try:
        return _ADAPTER.validate_python(table)
    except ValidationError as error:
        # Where and why, and never what stands there: somebody may have put a secret in the wrong place.
        said = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()[:5])
        raise _invalid(f"'{name}' is ill-formed: {said}") from None


def _invalid(detail: str) -> FailedPrecondition:
    return FailedPrecondition(
        "IDENTITY_PROVIDERS_INVALID",
        f"the file of identity providers: {detail}",
        remedy="see docs/runbooks/identity-providers.md",
    )
