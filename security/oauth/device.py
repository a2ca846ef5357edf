"""Device authorization (RFC 8628): a program without a browser shows a code, and a person at another device decides."""

import secrets
from datetime import UTC, datetime
from typing import Any, Final

from authlib.oauth2.rfc6749 import InvalidScopeError, UnauthorizedClientError
from authlib.oauth2.rfc8628 import DEVICE_CODE_GRANT_TYPE, DeviceAuthorizationEndpoint, DeviceCodeGrant

from security.oauth.domain import DEVICE_CODE_LIFE, DEVICE_POLL_S
from security.oauth.protocol import Member
from security.oauth.refresh import ANYBODY
from security.oauth.waiting_store import Device

DEVICE_CODE: Final[str] = DEVICE_CODE_GRANT_TYPE


class DeviceAuthorization(DeviceAuthorizationEndpoint):  # type: ignore[misc]
    """Gives a device its code, and a shorter one for people."""

    CLIENT_AUTH_METHODS = ANYBODY
    EXPIRES_IN = int(DEVICE_CODE_LIFE.total_seconds())
    INTERVAL = DEVICE_POLL_S

    def authenticate_client(self, request: Any) -> Any:
        client = super().authenticate_client(request)
        if not client.check_grant_type(DEVICE_CODE):
            raise UnauthorizedClientError("The client is not registered for device codes.")
        if client.registered.granted(request.payload.scope) is None:
            raise InvalidScopeError()
        request.granted = " ".join(sorted(client.registered.granted(request.payload.scope)))
        return client

    def create_endpoint_response(self, request: Any) -> Any:
        status, data, headers = super().create_endpoint_response(request)
        device = Device(
            user_code=data["user_code"],
            client_id=request.client.get_client_id(),
            scope=request.granted,
            family_id=secrets.token_urlsafe(16),
            expires_at=datetime.now(UTC) + DEVICE_CODE_LIFE,
        )
        self.server.waiting.add_device(data["device_code"], device)
        return status, data, headers

    def generate_device_code(self) -> str:
        return secrets.token_urlsafe(32)

    def get_verification_uri(self) -> str:
        return f"{self.server.issuer}/oauth/device"

    def save_device_credential(self, client_id: str, scope: str, data: dict[str, Any]) -> None:
        """Kept with the answer, which knows the scopes that are granted."""


class Credential:
    """A device's code as Authlib asks about it."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def get_client_id(self) -> str:
        return self._device.client_id

    def get_scope(self) -> str:
        return self._device.scope

    def get_user_code(self) -> str:
        return self._device.user_code

    def is_expired(self) -> bool:
        return self._device.expires_at <= datetime.now(UTC)


class DeviceCode(DeviceCodeGrant):  # type: ignore[misc]
    """What the device asks again and again until somebody has decided; a decision is taken once."""

    TOKEN_ENDPOINT_AUTH_METHODS = ANYBODY

    def query_device_credential(self, device_code: str) -> Credential | None:
        found = self.server.waiting.device(device_code)
        return None if found is None else Credential(found)

    def query_user_grant(self, user_code: str) -> tuple[Member | None, bool] | None:
        found = self.server.waiting.take_decided(user_code)
        if found is None:
            return None
        if not found.allowed or found.member_id is None or found.signed_in_at is None:
            return None, False
        member = Member(found.member_id, found.signed_in_at, found.family_id, found.context, found.methods)
        return member, True

    def should_slow_down(self, credential: Credential) -> bool:
        return bool(self.server.waiting.asks_too_often(credential.get_user_code(), datetime.now(UTC)))
