"""Parameters of OAuth requests, read strictly: every one at most once, in the characters that RFC 6749 gives them."""

import base64
import binascii
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidClientError, InvalidRequestError

from security.oauth.domain import PARAMETER

PARAMETERS_MAX = 32
QUERY_BYTES_MAX = 4096
BODY_BYTES_MAX = 16 * 1024
CREDENTIALS_BYTES_MAX = 1024
# An assertion is a JWT, and longer than anything else.
LONG = frozenset({"client_assertion"})
LONG_VALUE = re.compile(r"[A-Za-z0-9._-]{0,8192}")
# What a browser says of a passkey is JSON.
CREDENTIAL = "credential"
CREDENTIAL_VALUE = re.compile(r"[\x20-\x7e]{0,8192}")
# What people type; everything else is for programs.
TYPED = frozenset({"login", "password", "second"})
TYPED_LENGTH_MAX = 256
_PATTERNS = {CREDENTIAL: CREDENTIAL_VALUE} | dict.fromkeys(LONG, LONG_VALUE)


class TooLargeError(OAuth2Error):  # type: ignore[misc]
    """More bytes than any honest request has."""

    error = "invalid_request"
    status_code = 413


class InvalidTargetError(OAuth2Error):  # type: ignore[misc]
    """RFC 8707, section 2."""

    error = "invalid_target"


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
        elif not _PATTERNS.get(name, PARAMETER).fullmatch(value):
            raise InvalidRequestError(f"The value of '{name[:64]}' is too long or has forbidden characters.")
    return {name: value for name, value in pairs if value}


def check_resource(parameters: Mapping[str, str], issuer: str) -> None:
    """Tokens are for one resource, which is called as their issuer is (RFC 8707). InvalidTargetError for any other."""
    if parameters.get("resource", issuer) != issuer:
        raise InvalidTargetError("Tokens for this resource are not issued here.")


def check_credentials(header: str | None, parameters: Mapping[str, str]) -> str:
    """The id that a client claims, or "" where it does not say.

    Refuses malformed credentials, and two kinds of them at once (RFC 6749, section 2.3).
    """
    claimed = parameters.get("client_id", "")
    shown = (header is not None, "client_secret" in parameters, "client_assertion" in parameters)
    if sum(shown) > 1:
        raise InvalidRequestError("The client authenticates in two ways at once.")
    if header is None:
        return claimed
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > CREDENTIALS_BYTES_MAX:
        raise InvalidClientError(status_code=401, description="The client must authenticate with HTTP Basic.")
    try:
        client_id, colon, _ = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError) as error:
        raise InvalidClientError(status_code=401, description="The client's credentials are malformed.") from error
    if not colon:
        raise InvalidClientError(status_code=401, description="The client's credentials are malformed.")
    if claimed not in ("", client_id):
        raise InvalidRequestError("The client gives two ids.")
    return client_id
