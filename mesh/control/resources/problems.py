"""Answers that a gateway makes itself, as problem documents (RFC 9457)."""

from http import HTTPStatus
from typing import Any, Final

# Where a filter notes that its answer is a problem document already; transcoding.lua and the decision point have the
# same names.
METADATA: Final = "isthmus"
DECISION: Final = "envoy.filters.http.ext_authz"
ANSWERED: Final = "answered"
CONTENT_TYPE: Final = "application/problem+json"
# Status, reason, detail. Every status that Envoy may answer with by itself.
_PROBLEMS: Final = (
    (400, "BAD_REQUEST", "The request is malformed."),
    (401, "TOKEN_REQUIRED", "A valid access token is required."),
    (403, "FORBIDDEN", "This may not be asked for here."),
    (404, "NOT_FOUND", "There is nothing here."),
    (405, "METHOD_NOT_ALLOWED", "The path exists, but not with this method."),
    (408, "REQUEST_TIMEOUT", "The request did not arrive in time."),
    (413, "BODY_TOO_LARGE", "The request's body is larger than this server takes."),
    (415, "UNSUPPORTED_MEDIA_TYPE", "The request's content type is not served."),
    (426, "UPGRADE_REQUIRED", "Another version of the protocol is required."),
    (429, "TOO_MANY_REQUESTS", "Too many requests: slow down."),
    (431, "HEADERS_TOO_LARGE", "The request's headers are larger than this server takes."),
    (500, "INTERNAL", "The server failed on this request."),
    (502, "BAD_ANSWER", "The server behind answered with something unusable."),
    (503, "UNAVAILABLE", "Nobody can answer right now: try again."),
    (504, "DEADLINE_EXCEEDED", "No answer came in time."),
)
# A token that cannot be checked is not a bad one: without the issuer's keys, Envoy answers 401 like to any other.
_NO_KEYS: Final = "Jwks_remote_fetch_is_failed"
_KEYLESS: Final = (503, "KEYS_UNAVAILABLE", "The keys that tokens are checked with are not here yet: try again.")
_CEL: Final = "envoy.access_loggers.extension_filters.cel"
_RETRY_LATER: Final = frozenset({429, 503})
_RETRY_AFTER: Final = {"header": {"key": "retry-after", "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def local_replies() -> dict[str, Any]:
    """What Envoy says of itself (its own text names upstreams and sockets) is replaced whole."""
    mappers: list[dict[str, Any]] = [_kept(METADATA), _kept(DECISION), _good()]
    mappers.append({**_problem(*_KEYLESS), "filter": _says(_NO_KEYS), "status_code": _KEYLESS[0]})
    mappers.extend(_problem(*each) for each in _PROBLEMS)
    return {"mappers": mappers, "body_format": _format(None, "FAILED", "The request failed.")}


def _problem(status: int, reason: str, detail: str) -> dict[str, Any]:
    mapper: dict[str, Any] = {"filter": _status(status), "body_format_override": _format(status, reason, detail)}
    if status in _RETRY_LATER:
        mapper["headers_to_add"] = [_RETRY_AFTER]
    return mapper


def _says(details: str) -> dict[str, Any]:
    """Answers of which Envoy notes such details for itself."""
    expression = f"response.code_details.contains('{details}')"
    typed = {"@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"}
    return {"extension_filter": {"name": _CEL, "typed_config": {**typed, "expression": expression}}}


def _good() -> dict[str, Any]:
    """An answer that is no refusal stays as it is: all of them are JSON."""
    text = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}, "content_type": "application/json"}
    return {"filter": _status(200), "body_format_override": text}


def _kept(namespace: str) -> dict[str, Any]:
    """What a filter of ours has already said as a problem document stays as it is."""
    answered = {"filter": namespace, "path": [{"key": ANSWERED}], "value": {"bool_match": True}}
    return {
        "filter": {"metadata_filter": {"matcher": answered, "match_if_key_not_found": False}},
        "body_format_override": {
            "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"},
            "content_type": CONTENT_TYPE,
        },
    }


def _status(status: int) -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": f"isthmus.problem.{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _format(status: int | None, reason: str, detail: str) -> dict[str, Any]:
    return {
        "json_format": {
            "type": f"urn:isthmus:problem:{reason.lower().replace('_', '-')}",
            "title": HTTPStatus(status).phrase if status else "Failed",
            "status": status or "%RESPONSE_CODE%",
            "detail": detail,
            "reason": reason,
            "request_id": "%REQ(X-REQUEST-ID)%",
        },
        "content_type": CONTENT_TYPE,
        "json_format_options": {"sort_properties": False},
    }
