"""What the gateway says to a call: to the log which rule it broke, to the caller what helps it to do better."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2 as auth
from google.rpc import code_pb2

from mesh import problem
from mesh.errors import MeshError, Unauthenticated

# Where the gateway's Envoy finds that a body is a problem document already.
ANSWERED: Final = "answered"
# Of no use behind the gateway, and a danger in the wrong hands.
_REMOVED: Final = ("dpop", "cookie")
# Rules whose name tells an honest caller what to do; of the others only somebody who guesses would learn.
_TOLD: Final = frozenset(
    {
        "TOKEN_MISSING",
        "TOKEN_EXPIRED",
        "TOKEN_REVOKED",
        "STEP_UP_REQUIRED",
        "PROOF_MISSING",
        "PROOF_NONCE",
        "PROOF_INVALID",
        "PROOF_REPLAYED",
    }
)
_CHALLENGES: Final = 'Bearer realm="isthmus", DPoP algs="ES256"'
_OVERWRITE: Final = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


# An inner token goes along with many calls; nobody changes an answer that was made.
@lru_cache(maxsize=4096)
def allowed(token: str | None) -> auth.CheckResponse:
    """Go on, with the inner token in place of whatever came along; without one, with none."""
    answer = auth.CheckResponse()
    answer.status.code = code_pb2.OK
    if token is None:
        answer.ok_response.headers_to_remove.extend(("authorization", *_REMOVED))
    else:
        answer.ok_response.headers_to_remove.extend(_REMOVED)
        _set(answer.ok_response.headers, {"authorization": f"Bearer {token}"})
    return answer


def refused(error: MeshError) -> auth.CheckResponse:
    """A problem document (RFC 9457), with the challenge that says what is missing (RFC 6750, RFC 9449, RFC 9470)."""
    shown = error
    if isinstance(error, Unauthenticated) and error.reason not in _TOLD:
        shown = Unauthenticated("TOKEN_INVALID", "the access token is not good here", remedy="Get a new one.")
    answer = auth.CheckResponse()
    answer.status.code = error.code.value[0]
    denied = answer.denied_response
    denied.status.code = problem.status_of(shown)
    denied.body = problem.document(shown).decode()
    headers = {"content-type": problem.CONTENT_TYPE, "cache-control": "no-store", **_challenge(shown)}
    if denied.status.code in (429, 503):
        headers["retry-after"] = "1"
    _set(denied.headers, headers)
    answer.dynamic_metadata[ANSWERED] = True
    return answer


def _challenge(error: MeshError) -> Mapping[str, str]:
    said = error.metadata
    match error.reason:
        case "TOKEN_MISSING":
            return {"www-authenticate": _CHALLENGES}
        case "SCOPE_MISSING":
            return {"www-authenticate": f'Bearer error="insufficient_scope", scope="{said.get("scope", "")}"'}
        case "STEP_UP_REQUIRED":
            return {
                "www-authenticate": 'Bearer error="insufficient_user_authentication", '
                f'error_description="{error.message}", acr_values="{said["acr_values"]}", max_age="{said["max_age"]}"'
            }
        case "PROOF_NONCE":
            return {"www-authenticate": 'DPoP error="use_dpop_nonce", algs="ES256"', "dpop-nonce": said["nonce"]}
        case reason if reason.startswith("PROOF_"):
            return {"www-authenticate": 'DPoP error="invalid_dpop_proof", algs="ES256"'}
    if isinstance(error, Unauthenticated):
        return {"www-authenticate": 'Bearer error="invalid_token", DPoP error="invalid_token", algs="ES256"'}
    return {}


def _set(headers: object, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        option = headers.add(append_action=_OVERWRITE)  # type: ignore[attr-defined]
        option.header.key, option.header.value = name, value
