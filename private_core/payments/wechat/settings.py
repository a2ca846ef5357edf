"""The account at WeChat Pay. Keys lie in files that only the process may read."""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import BaseModel, Field

from mesh.errors import FailedPrecondition
from private_core.payments.wechat.signing import KEY_BYTES


class WechatSettings(BaseModel):
    """Environment ISTHMUS_WECHAT, as JSON."""

    mchid: str = Field(pattern="^[0-9]{1,32}$")
    appid: str = Field(min_length=1, max_length=32)
    # The merchant's certificate and private key, PEM; and the APIv3 key, 32 bytes.
    certificate_file: Path
    key_file: Path
    api_key_file: Path
    # Where WeChat Pay tells the shop, which passes it on by ProviderNotifications.ForwardWechat.
    notify_url: str = Field(pattern="^https://", max_length=255)
    description: str = Field(default="Order", min_length=1, max_length=127)
    base_url: str = "https://api.mch.weixin.qq.com"
    # How long the payer may take to pay.
    pay_within_s: float = Field(default=900, ge=60, le=86_400)


@dataclass(frozen=True, slots=True)
class WechatAccount:
    mchid: str
    appid: str
    serial: str
    key: rsa.RSAPrivateKey
    api_key: bytes
    notify_url: str
    description: str
    base_url: str
    pay_within_s: float


def account(settings: WechatSettings) -> WechatAccount:
    """Read the keys. Raises FailedPrecondition when they are not what they should be."""
    try:
        certificate = x509.load_pem_x509_certificate(settings.certificate_file.read_bytes())
        key = load_pem_private_key(settings.key_file.read_bytes(), None)
        api_key = settings.api_key_file.read_bytes().strip()
    except (OSError, ValueError, TypeError) as error:
        raise FailedPrecondition(
            "WECHAT_KEYS_UNREADABLE", "the keys of WeChat Pay cannot be read", remedy="see ISTHMUS_WECHAT"
        ) from error
    if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != certificate.public_key():
        raise FailedPrecondition("WECHAT_KEY_WRONG", "the merchant's key is not its certificate's RSA key")
    if len(api_key) != KEY_BYTES:
        raise FailedPrecondition("WECHAT_API_KEY_WRONG", f"the APIv3 key has {len(api_key)} bytes, not {KEY_BYTES}")
    return WechatAccount(
        mchid=settings.mchid,
        appid=settings.appid,
        serial=format(certificate.serial_number, "X"),
        key=key,
        api_key=api_key,
        notify_url=settings.notify_url,
        description=settings.description,
        base_url=settings.base_url,
        pay_within_s=settings.pay_within_s,
    )
