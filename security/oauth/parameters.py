"""Parameters of OAuth requests, read strictly: every one at most once, in the characters that RFC 6749 gives them."""

import base64
import binascii
from urllib.parse import parse_qsl

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidClientError, InvalidRequestError

from security.oauth.domain import PARAMETER

PARAMETERS_MAX = 32
QUERY_BYTES_MAX = 4096
BODY_BYTES_MAX = 16 * 1024
CREDENTIALS_BYTES_MAX = 1024
# What people type; everything else is for programs.
TYPED = frozenset({"login", "password"})
TYPED_LENGTH_MAX = 256


class TooLargeError(OAuth2Error):  # type: ignore[misc]
    """More bytes than any honest request has."""

    error = "invalid_request"
    status_code = 413


def parse(encoded: bytes) -> dict[str, str]:
    """Read an application/x-www-form-urlencoded query or body; InvalidRequestError for anything doubtful.

    A parameter without a value counts as absent (RFC 6749, section 3.1).
    """
    try:
        pairs = parse_qsl(
            encoded.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=PARAMETERS_MAX,
        )
    except ValueError as error:
        raise InvalidRequestError("The parameters are malformed.") from error
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidRequestError("A parameter is repeated.")
    for name, value in pairs:
        if not PARAMETER.fullmatch(name):
            raise InvalidRequestError("A parameter's name has forbidden characters.")
        if name in TYPED:
            if len(value) > TYPED_LENGTH_MAX or "\x00" in value:
                raise InvalidRequestError(f"The {name} is too long or has forbidden characters.")
        elif not PARAMETER.fullmatch(value):
            raise InvalidRequestError(f"The value of '{name[:64]}' is too long or has forbidden characters.")
    return {name: value for name, value in pairs if value}


def check_authorization(header: str | None, parameters: dict[str, str]) -> None:
    """Refuse malformed credentials, and two kinds of them at once (RFC 6749, section 2.3)."""
    if header is None:
        return
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > CREDENTIALS_BYTES_MAX:
        raise InvalidClientError(status_code=401, description="The client must authenticate with HTTP Basic.")
    try:
        client_id, colon, _ = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError) as error:
        raise InvalidClientError(status_code=401, description="The client's credentials are malformed.") from error
    if not colon:
        raise InvalidClientError(status_code=401, description="The client's credentials are malformed.")
    if "client_secret" in parameters:
        raise InvalidRequestError("The client authenticates in two ways at once.")
    if parameters.get("client_id", client_id) != client_id:
        raise InvalidRequestError("The client gives two ids.")
