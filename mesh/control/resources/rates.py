"""How often a method may be called through a gateway (the contract's rate classes): by everybody together, and at the
public's by one address and for one value of the method's rate key.
"""

from typing import Any, Final

from mesh.contract import MethodPolicy
from mesh.contract.model import RateLimit
from mesh.control.resources.view import View

FILTER: Final = "envoy.filters.http.local_ratelimit"
# Buckets of one kind that a method has at once. The one that was not used for longest is forgotten first; by then it
# is full again or nearly so.
BUCKETS_MAX: Final = 20_000
_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_ALWAYS: Final = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
# An address of IPv6 is one of very many that whoever has one has: what a provider gives out counts.
_ADDRESS: Final = {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}}


def filter_() -> dict[str, Any]:
    """Limits nothing by itself: each route has buckets of its own."""
    return {"name": FILTER, "typed_config": {"@type": _TYPE, "stat_prefix": "rates"}}


def limited(view: View, method: MethodPolicy) -> dict[str, Any]:
    """The per-route setting of one method."""
    rates = view.contract.rates[method.rate_class]
    # To a native caller it is RESOURCE_EXHAUSTED, as from a server.
    exhausted = {"rate_limited_as_resource_exhausted": True}
    setting = {"@type": _TYPE, "stat_prefix": "rates", "token_bucket": _bucket(rates.gateway), **exhausted}
    # The core gateway sees gateways, and not the addresses that are behind them.
    if view.zone == "public":
        setting |= _apart(("masked_remote_address", _ADDRESS, rates.address), *_keyed(method, rates.key))
    return {FILTER: {**setting, "filter_enabled": _ALWAYS, "filter_enforced": _ALWAYS}}


def _keyed(method: MethodPolicy, limit: RateLimit | None) -> list[tuple[str, dict[str, Any], RateLimit]]:
    if not method.rate_key or limit is None:
        return []
    name = method.rate_key
    return [(name, {"query_parameters": {"query_parameter_name": name, "descriptor_key": name}}, limit)]


def _apart(*kinds: tuple[str, dict[str, Any], RateLimit]) -> dict[str, Any]:
    """A bucket for each value of each of them, besides the one for all."""
    return {
        "rate_limits": [{"actions": [action]} for _, action, _ in kinds],
        # An entry without a value stands for every value.
        "descriptors": [{"entries": [{"key": key}], "token_bucket": _bucket(limit)} for key, _, limit in kinds],
        "max_dynamic_descriptors": BUCKETS_MAX,
    }


def _bucket(limit: RateLimit) -> dict[str, Any]:
    return {"max_tokens": limit.burst, "tokens_per_fill": limit.per_second, "fill_interval": "1s"}
