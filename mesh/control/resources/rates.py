"""How often a method may be called through a gateway, by everybody together (the contract's rate classes)."""

from typing import Any, Final

from mesh.contract import MethodPolicy
from mesh.control.resources.view import View

FILTER: Final = "envoy.filters.http.local_ratelimit"
_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_ALWAYS: Final = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def filter_() -> dict[str, Any]:
    """Limits nothing by itself: each route has a bucket of its own."""
    return {"name": FILTER, "typed_config": {"@type": _TYPE, "stat_prefix": "rates"}}


def limited(view: View, method: MethodPolicy) -> dict[str, Any]:
    """The per-route setting of one method."""
    limit = view.contract.rates[method.rate_class].gateway
    bucket = {"max_tokens": limit.burst, "tokens_per_fill": limit.per_second, "fill_interval": "1s"}
    # To a native caller it is RESOURCE_EXHAUSTED, as from a server.
    exhausted = {"rate_limited_as_resource_exhausted": True}
    setting = {"@type": _TYPE, "stat_prefix": "rates", "token_bucket": bucket, **exhausted}
    return {FILTER: {**setting, "filter_enabled": _ALWAYS, "filter_enforced": _ALWAYS}}
