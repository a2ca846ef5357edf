"""How often a method may be called through a gateway (the contract's rate classes): by everybody together, and at the
public's by one address and for one value of the method's rate key.
"""

from collections.abc import Mapping
from typing import Any, Final

from mesh.contract import HttpRule, MethodPolicy
from mesh.contract.model import RateLimit
from mesh.control.resources.view import View

FILTER: Final = "envoy.filters.http.local_ratelimit"
# The same once more, behind the filter that reads the key out of a body: an address that asks too often is refused
# before its body is waited for.
KEY_FILTER: Final = f"{FILTER}.key"
READING: Final = "envoy.filters.http.json_to_metadata"
# Buckets of one kind that a method has at once. The one that was not used for longest is forgotten first; by then it
# is full again or nearly so.
BUCKETS_MAX: Final = 20_000
_TYPES: Final = "type.googleapis.com/envoy.extensions.filters.http."
_TYPE: Final = f"{_TYPES}local_ratelimit.v3.LocalRateLimit"
_READING_TYPE: Final = f"{_TYPES}json_to_metadata.v3.JsonToMetadata"
_ALWAYS: Final = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
# An address of IPv6 is one of very many that whoever has one has: what a provider gives out counts.
_ADDRESS: Final = {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}}
# Where a key is kept that came in a body, and the one bucket of all bodies that cannot be read here: what a node might
# make of them nobody knows.
_READ: Final = "isthmus.rates"
_UNREADABLE: Final = "?"


def filter_() -> dict[str, Any]:
    """Limits nothing by itself: each route has buckets of its own."""
    return {"name": FILTER, "typed_config": {"@type": _TYPE, "stat_prefix": "rates"}}


def of_the_public() -> list[dict[str, Any]]:
    """The same for the gateway of the public, and what finds a key in a body, on the routes that say so."""
    return [
        filter_(),
        {"name": READING, "disabled": True, "typed_config": {"@type": _READING_TYPE}},
        {"name": KEY_FILTER, "disabled": True, "typed_config": {"@type": _TYPE, "stat_prefix": "rates_key"}},
    ]


def limited(view: View, method: MethodPolicy, rule: HttpRule | None = None) -> dict[str, Any]:
    """The per-route settings of one method, or of one binding of it."""
    rates = view.contract.rates[method.rate_class]
    # The core gateway sees gateways, and not the addresses that are behind them.
    if view.zone != "public":
        return {FILTER: _setting(rates.gateway)}
    address = ("masked_remote_address", rates.address, _ADDRESS)
    name = method.rate_key
    if not name or rates.key is None:
        return {FILTER: _setting(rates.gateway, address)}
    query = (name, rates.key, {"query_parameters": {"query_parameter_name": name, "descriptor_key": name}})
    if rule is None or not rule.body:
        return {FILTER: _setting(rates.gateway, address, query)}
    in_body = {"metadata_key": {"key": _READ, "path": [{"key": name}]}, "descriptor_key": name, "skip_if_absent": True}
    return {
        FILTER: _setting(rates.gateway, address),
        READING: _read(name),
        # A value has one bucket on a route, wherever it stands.
        KEY_FILTER: _setting(rates.gateway, query, (name, rates.key, {"metadata": in_body})),
    }


def _setting(everybody: RateLimit, *each: tuple[str, RateLimit, Mapping[str, Any]]) -> dict[str, Any]:
    """A bucket for each value of a key that its action finds, besides the one for all. A key has one limit."""
    setting: dict[str, Any] = {
        "@type": _TYPE,
        "stat_prefix": "rates",
        "token_bucket": _bucket(everybody),
        # To a native caller it is RESOURCE_EXHAUSTED, as from a server.
        "rate_limited_as_resource_exhausted": True,
        "filter_enabled": _ALWAYS,
        "filter_enforced": _ALWAYS,
    }
    if each:
        limits = {key: limit for key, limit, _ in each}
        setting |= {
            "rate_limits": [{"actions": [action]} for _, _, action in each],
            # An entry without a value stands for every value.
            "descriptors": [{"entries": [{"key": key}], "token_bucket": _bucket(limits[key])} for key in limits],
            "max_dynamic_descriptors": BUCKETS_MAX,
        }
    return setting


def _read(name: str) -> dict[str, Any]:
    """Takes a field out of a JSON body. One of another type, or without the field, is refused by whoever reads it."""
    kept = {"metadata_namespace": _READ, "key": name}
    rule = {
        "selectors": [{"key": name}],
        "on_present": kept,
        "on_error": {**kept, "value": _UNREADABLE},
    }
    json = {"regex": "(?i)application/json.*"}
    return {"@type": _READING_TYPE, "request_rules": {"rules": [rule], "allow_content_types_regex": json}}


def _bucket(limit: RateLimit) -> dict[str, Any]:
    return {"max_tokens": limit.burst, "tokens_per_fill": limit.per_second, "fill_interval": "1s"}
