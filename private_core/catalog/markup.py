"""HTML as it may be published: an allow-list of elements, and links that are safe to follow (nh3, which is ammonia)."""

from typing import Final

import nh3

_TAGS: Final = frozenset(
    """
    a abbr b blockquote br caption cite code dd del dfn dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr i img ins kbd li
    mark ol p pre q s samp small span strong sub sup table tbody td tfoot th thead tr u ul var
    """.split()  # noqa: SIM905 - words in lines are easier to read
)
_ATTRIBUTES: Final = {
    "*": {"lang", "dir", "title"},
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
}
_CLEANER: Final = nh3.Cleaner(
    tags=set(_TAGS),
    attributes=_ATTRIBUTES,
    url_schemes={"https", "mailto"},
    link_rel="noopener noreferrer nofollow",
    strip_comments=True,
)


def sanitised(body: str) -> str:
    """`body` without scripts, styles, forms, frames, event handlers, comments and links other than https and mailto."""
    return _CLEANER.clean(body)
