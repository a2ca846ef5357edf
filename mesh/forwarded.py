"""What a gateway says of its own peer, in x-forwarded-client-cert."""

import base64
import binascii
import re
from functools import lru_cache
from typing import Final

HEADER: Final = "x-forwarded-client-cert"
_HASH: Final = re.compile(r"(?:^|;)Hash=([0-9a-f]{64})(?:;|$)")
_URI: Final = re.compile(r"(?:^|;)URI=([^;,\"]{1,256})(?:;|$)")


# The same few peers say the same again and again.
@lru_cache(maxsize=1024)
def forwarded_peer(header: str) -> tuple[str, str]:
    """SPIFFE id of the gateway's peer, and its certificate's SHA-256 in base64url (RFC 8705, section 3.1); or "".

    Only from a gateway that sets the header itself. The last element is its own; others came from somewhere else.
    """
    element = header.rpartition(",")[2]
    uri, digest = _URI.search(element), _HASH.search(element)
    thumbprint = base64.urlsafe_b64encode(binascii.unhexlify(digest[1])).rstrip(b"=").decode() if digest else ""
    return uri[1] if uri else "", thumbprint
