"""What a page of HTML says to a person: servers and proxies answer with one where the API would have answered JSON.

Rules: each thing once, since such a page says it in title and heading; short; time linear in the page,
whatever an upstream makes of it. It must not know what the page means.
"""

from __future__ import annotations

import re
from collections.abc import Callable

HTML_MAX_CHARS = 120
# each also ends where the page ends: a tag that is never closed would otherwise be looked for from every "<"
_IN_A_LINE = re.compile(r"</?(?:a|abbr|b|code|em|i|small|span|strong|tt|u)(?:\s[^>]*)?(?:>|\Z)", re.IGNORECASE)
_BETWEEN = re.compile(
    r"<(?:script|style)\b.*?(?:</(?:script|style)[^>]*(?:>|\Z)|\Z)|<[a-z/!?][^>]*(?:>|\Z)", re.DOTALL | re.IGNORECASE
)


def html_text(page: str, status: int, mask: Callable[[str], str] = str) -> str:
    """Its texts in order, without the status and what was said before, masked and then cut; "" if it says nothing."""
    texts = (" ".join(text.split()) for text in _BETWEEN.split(_IN_A_LINE.sub("", page)))
    text_quoted = mask("; ".join(filter(None, dict.fromkeys(without_status(text, status) for text in texts))))
    return text_quoted if len(text_quoted) <= HTML_MAX_CHARS else text_quoted[: HTML_MAX_CHARS - 1].rstrip() + "…"


def without_status(text: str, status: int) -> str:
    """The text without the status that it may begin with: who shows it has said that already."""
    begins = re.match(rf"\s*{status}(?:[\s:]+|\Z)", text)
    return text[begins.end() :] if begins else text
