"""Path templates of google.api.http, of which the mesh routes those whose variables are one segment each."""

import re
from typing import Final

# Its first group: the field that it fills.
VARIABLE: Final = re.compile(r"\{([a-z0-9_.]+)(?:=\*)?\}")
# A colon begins a verb (google.api.http, "custom verbs"); one that is part of a name comes percent-encoded.
SEGMENT: Final = "[^/:]+"


class TemplateError(ValueError):
    """A template that cannot be routed."""


def pattern(template: str) -> str:
    """The template as an RE2 expression for the whole path: each variable is one segment, and takes no verb along."""
    plain = VARIABLE.split(template)[::2]
    if any(set(part) & set("{}*") for part in plain):
        raise TemplateError(f"{template}: only variables of one segment, as {{name}}, can be routed")
    return SEGMENT.join(re.escape(part).replace("\\-", "-") for part in plain)


def is_literal(template: str) -> bool:
    return "{" not in template


def order(template: str) -> tuple[bool, int, str]:
    """Sorts templates so that no variable of one takes what another says: whole paths first, then most text first."""
    return (not is_literal(template), -len(VARIABLE.sub("", template)), template)
