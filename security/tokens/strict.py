"""JSON and base64url of tokens, read in one way only: what two readers could read differently is refused."""

import base64
import binascii
import json
from typing import Any


def strict_json(data: bytes) -> dict[str, Any]:
    """A JSON object in which no name appears twice: of two equal names, two readers may believe different ones.

    Raises ValueError, or RecursionError for what is nested too deeply.
    """
    value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def decoded(text: str) -> bytes:
    """The bytes of base64url without padding (RFC 7515, section 2), in its canonical spelling. Raises ValueError."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
    # The last character may carry bits that nothing reads: two spellings of the same bytes, of which one is written.
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        raise ValueError("not the canonical base64url")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"not JSON: {constant}")
