"""Reads a query string, strictly."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from mesh.errors import FieldViolation, InvalidArgument

PARAMETERS_MAX = 32
TIME_US_MAX = 2**63 - 1


def parse(query: str, known: frozenset[str], *, others_allowed: bool = False) -> Mapping[str, str]:
    """The known parameters. Raises InvalidArgument for a repeated or (unless allowed) an unknown one, or bad UTF-8."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except ValueError:
        raise InvalidArgument("QUERY_MALFORMED", "the query is not valid") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            if others_allowed:
                continue
            raise _invalid("query", "unknown parameter; known: " + ", ".join(sorted(known)))
        if name in found:
            raise _invalid(name, "given twice")
        found[name] = value
    return found


def time_us(parameters: Mapping[str, str], name: str) -> int:
    """Microseconds since the epoch; 0 when absent."""
    value = parameters.get(name, "0")
    if not (value.isascii() and value.isdecimal() and len(value) <= 19) or int(value) > TIME_US_MAX:
        raise _invalid(name, "microseconds since the epoch, not negative")
    return int(value)


def _invalid(field: str, rule: str) -> InvalidArgument:
    return InvalidArgument("QUERY_INVALID", "the query breaks its rules", fields=(FieldViolation(field, rule),))
