"""Faults of the overrides, as Envoy and gRPC inject them (the HTTP fault filter, gRFC A33)."""

from typing import Any, Final

from mesh.contract import MethodPolicy
from mesh.control.resources.view import View
from mesh.problem import HTTP_STATUS

FILTER: Final = "envoy.filters.http.fault"
_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"


def filter_() -> dict[str, Any]:
    """Injects nothing by itself: a route says what."""
    return {"name": FILTER, "typed_config": {"@type": _TYPE}}


def injected(view: View, method: MethodPolicy, *, http: bool = False) -> dict[str, Any]:
    """The per-route setting of one method; empty while no fault is laid over it. http: the caller speaks no gRPC."""
    fault = view.overrides.fault(method.path)
    if fault is None:
        return {}
    percentage = {"numerator": fault.percent, "denominator": "HUNDRED"}
    setting: dict[str, Any] = {"@type": _TYPE}
    if fault.delay_ms:
        setting["delay"] = {"fixed_delay": f"{fault.delay_ms / 1000}s", "percentage": percentage}
    if fault.abort:
        status = {"http_status": _http(fault.code)} if http else {"grpc_status": fault.code}
        setting["abort"] = {**status, "percentage": percentage}
    return {FILTER: setting}


def _http(code: int) -> int:
    return next((status for each, status in HTTP_STATUS.items() if each.value[0] == code), 500)
