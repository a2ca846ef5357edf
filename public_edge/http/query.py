"""Reads a query string, strictly."""

from collections.abc import Mapping
from urllib.parse import unquote_plus

from mesh.errors import FieldViolation, InvalidArgument

PARAMETERS_MAX = 32
TIME_US_MAX = 2**63 - 1


def parts(query: str) -> list[str]:
    """The parameters as they were sent, one `pair` each. Raises InvalidArgument for too many."""
    found = query.split("&", PARAMETERS_MAX)
    if len(found) > PARAMETERS_MAX:
        raise InvalidArgument("QUERY_MALFORMED", f"a query may have {PARAMETERS_MAX} parameters")
    return list(filter(None, found)) if "" in found else found


def pair(part: str) -> tuple[str, str]:
    """A parameter's name and value (application/x-www-form-urlencoded). Raises InvalidArgument for bad UTF-8."""
    name, _, value = part.partition("=")
    if "%" in part or "+" in part:
        try:
            return unquote_plus(name, errors="strict"), unquote_plus(value, errors="strict")
        except ValueError:
            raise InvalidArgument("QUERY_MALFORMED", "the query is not UTF-8") from None
    return name, value


def parse(query: str, known: frozenset[str], *, others_allowed: bool = False) -> Mapping[str, str]:
    """The known parameters. Raises InvalidArgument for a repeated or (unless allowed) an unknown one, or bad UTF-8."""
    found: dict[str, str] = {}
    for name, value in map(pair, parts(query)):
        if name not in known:
            if others_allowed:
                continue
            raise invalid("query", "unknown parameter; known: " + ", ".join(sorted(known)))
        if name in found:
            raise invalid(name, "given twice")
        found[name] = value
    return found


def time_us(parameters: Mapping[str, str], name: str) -> int:
    """Microseconds since the epoch; 0 when absent."""
    value = parameters.get(name, "0")
    if not (value.isascii() and value.isdecimal() and len(value) <= 19) or int(value) > TIME_US_MAX:
        raise invalid(name, "microseconds since the epoch, not negative")
    return int(value)


def invalid(field: str, rule: str) -> InvalidArgument:
    """A parameter that breaks a rule; `field` is its name as we know it, never as it was sent."""
    return InvalidArgument("QUERY_INVALID", "the query breaks its rules", fields=(FieldViolation(field, rule),))
