"""The visible text of an HTML page, which servers and proxies return in place of the API's JSON.

Repeated texts appear once, because such a page has the same title and heading. The time is linear in the length of the
page, also for a page made to be slow. This module does not interpret the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

HTML_MAX_CHARS = 120
# Each pattern also matches the end of the page: an unclosed tag would otherwise cause a search from every "<".
_INLINE_TAG = re.compile(r"</?(?:a|abbr|b|code|em|i|small|span|strong|tt|u)(?:\s[^>]*)?(?:>|\Z)", re.IGNORECASE)
_SEPARATOR = re.compile(
    r"<(?:script|style)\b.*?(?:</(?:script|style)[^>]*(?:>|\Z)|\Z)|<[a-z/!?][^>]*(?:>|\Z)", re.DOTALL | re.IGNORECASE
)


def html_text(page: str, status: int, mask: Callable[[str], str] = str) -> str:
    """Return the texts of the page in order, without the status and repetitions, masked and then cut."""
    texts = (" ".join(text.split()) for text in _SEPARATOR.split(_INLINE_TAG.sub("", page)))
    visible = mask("; ".join(filter(None, dict.fromkeys(without_status(text, status) for text in texts))))
    return visible if len(visible) <= HTML_MAX_CHARS else visible[: HTML_MAX_CHARS - 1].rstrip() + "…"


def without_status(text: str, status: int) -> str:
    """Return the text without the status at its beginning, which the caller shows separately."""
    begins = re.match(rf"\s*{status}(?:[\s:]+|\Z)", text)
    return text[begins.end() :] if begins else text
