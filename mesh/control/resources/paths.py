"""Path templates of google.api.http as Envoy's matches."""

import re
from typing import Any, Final

_VARIABLE: Final = re.compile(r"\{([a-z0-9_.]+)(=\*)?\}")
# A colon begins a verb (google.api.http, "custom verbs"); one that is part of a name comes percent-encoded.
SEGMENT: Final = "[^/:]+"


class TemplateError(ValueError):
    """A template that cannot be compiled."""


def pattern(template: str) -> str:
    """The template as an RE2 expression for the whole path: each variable is one segment, and takes no verb along."""
    plain = _VARIABLE.split(template)[::3]
    if any(set(part) & set("{}*") for part in plain):
        raise TemplateError(f"{template}: only variables of one segment, as {{name}}, can be routed")
    return SEGMENT.join(re.escape(part).replace("\\-", "-") for part in plain)


def is_literal(template: str) -> bool:
    return "{" not in template


def order(template: str) -> tuple[bool, int, str]:
    """Sorts templates so that no variable of one takes what another says: whole paths first, then most text first."""
    return (not is_literal(template), -len(_VARIABLE.sub("", template)), template)


def match(template: str) -> dict[str, Any]:
    """A RouteMatch of the path alone."""
    if is_literal(template):
        return {"path": template}
    return {"safe_regex": {"regex": pattern(template)}}


def matcher(template: str) -> dict[str, Any]:
    """A StringMatcher of the path, as RBAC takes it."""
    if is_literal(template):
        return {"exact": template}
    return {"safe_regex": {"regex": pattern(template)}}


def method(*verbs: str) -> dict[str, Any]:
    """A HeaderMatcher of the HTTP method."""
    if len(verbs) == 1:
        return {"name": ":method", "string_match": {"exact": verbs[0]}}
    return {"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(verbs)}}}
