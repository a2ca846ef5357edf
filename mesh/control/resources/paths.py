"""Path templates and HTTP methods as Envoy's matches."""

from typing import Any

from mesh.contract.templates import is_literal, pattern


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
