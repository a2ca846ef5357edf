"""Every call that needs a token is decided by the gateway workload (ext_authz) before it goes on to a service."""

from typing import Any, Final

from mesh.contract import MethodPolicy
from mesh.control.resources import problems
from mesh.control.resources.view import BODY_BYTES_MAX

FILTER: Final = problems.DECISION
GATEWAY: Final = "gateway"
_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3."
# Longer than a decision ever takes on a machine that is not lost, and well within the shortest deadline.
_TIMEOUT: Final = "1s"
_FRAME_BYTES: Final = 5
# What a decision is made from, besides method and path.
_HEADERS: Final = (
    "authorization",
    "dpop",
    "traceparent",
    "x-envoy-original-method",
    "x-envoy-original-path",
    "x-forwarded-client-cert",
)


def filter_() -> dict[str, Any]:
    """Stands behind the transcoder: a call has its method's path by then, and a route, without which Envoy asks nobody.

    Without an answer the call is refused.
    """
    allowed = {"patterns": [{"exact": name} for name in _HEADERS]}
    return {
        "name": FILTER,
        "typed_config": {
            "@type": _TYPE + "ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": GATEWAY}, "timeout": _TIMEOUT},
            "failure_mode_allow": False,
            "status_on_error": {"code": 503},
            "allowed_headers": allowed,
            # As gRPC frames it: the input shield looks at what the service will see.
            "with_request_body": {"max_request_bytes": BODY_BYTES_MAX + _FRAME_BYTES, "pack_as_bytes": True},
            # The decision's headers replace what came; none that Envoy itself speaks through may be among them.
            "validate_mutations": True,
        },
    }


def needed(method: MethodPolicy) -> bool:
    """Whether a method's calls are decided: those that ask for a token."""
    return bool(method.scopes) or method.human or method.step_up


def skipped() -> dict[str, Any]:
    """For routes whose calls need no token, as typed_per_filter_config."""
    return {FILTER: {"@type": _TYPE + "ExtAuthzPerRoute", "disabled": True}}
