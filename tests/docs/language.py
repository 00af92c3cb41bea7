"""Check that the project's English is plain and that a class name has one meaning: `python -m tests.docs.language`.

Counts phrases that technical English seldom uses, per 1,000 words of each area, and fails above a limit. `--where`
lists the matches. A text without a match may still be hard to read.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LIMIT_PER_1000 = 1.0
PHRASES = {
    "a relative clause instead of a noun": (
        r"\b(?:[Oo]ne that|[Tt]hose that|[Tt]hose who|[Ww]ho(?:ever)? (?:asks|comes|sends|waits)"
        r"|[Ww]hat (?:is|was|it|came|comes|waits|has|the|they|goes|went))\b"
    ),
    "whoever, whatever, whose": r"\b(?:[Ww]hoever|[Ww]hatever|[Ww]hichever|[Ww]hose)\b",
    "nobody, somebody, everybody": r"\b(?:[Nn]obody|[Ss]omebody|[Aa]nybody|[Ee]verybody)\b",
    "so many for a number": r"\b[Ss]o (?:many|much|long|large|often|few)\b(?! that| as)",
    "is no, are none": r"\b(?:is|are|was|were|be) (?:no|none)\b",
    "told, says": r"\b(?:[Tt]old|[Tt]ells?|[Ss]aid|[Ss]ays?)\b",
    "data that comes and goes": r"\b(?:[Cc]omes|[Cc]ame|[Gg]oes|[Ww]ent|[Ll]eaves|[Tt]ravel\w*)\b",
    "'else' as a conjunction": r"(?:^|[.;:(,] )[Ee]lse\b(?! [a-z_]+ =)",
    "dear, company, at hand": r"\b(?:dear|dearly|dearer|company|at hand|by itself|by themselves)\b",
}
_WORD = re.compile(r"[A-Za-z']+")

Text = tuple[int, str]
"""Line number and text."""


class Match(NamedTuple):
    area: str
    phrase: str
    place: str
    """Path, line and the text around the phrase."""


def python_texts(source: str) -> Iterator[Text]:
    """Yield docstrings, comments, and strings of at least four words."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" ") >= 3:
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
            yield node.lineno, "".join(map(str, parts))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def markdown_texts(source: str) -> Iterator[Text]:
    """Yield lines without code and links to pages."""
    fenced = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, re.sub(r"`[^`]*`|\([^)]*\.md[^)]*\)", "", line)


def page_texts(source: str) -> Iterator[Text]:
    yield from enumerate(source.splitlines(), 1)


AREAS: Sequence[tuple[str, str, Callable[[str], Iterator[Text]]]] = (
    ("relay", "relay/**/*.py", python_texts),
    ("bench", "bench/**/*.py", python_texts),
    ("tests", "tests/**/*.py", python_texts),
    ("page", "relay/**/page/*", page_texts),
    ("docs", "*.md", markdown_texts),
    ("docs", "docs/**/*.md", markdown_texts),
)


def measure(root: Path) -> tuple[Counter[str], list[Match]]:
    """Return the number of words of each area, and all matches."""
    words: Counter[str] = Counter()
    matches: list[Match] = []
    for area, pattern, texts in AREAS:
        for path in sorted(root.glob(pattern)):
            if path == Path(__file__) or path.suffix not in {".py", ".md", ".html", ".js"}:
                continue
            for line, text in set(texts(path.read_text())):
                words[area] += len(_WORD.findall(text))
                for phrase, expression in PHRASES.items():
                    for found in re.finditer(expression, text):
                        around = " ".join(text[max(0, found.start() - 40) : found.end() + 40].split())
                        matches.append(Match(area, phrase, f"{path.relative_to(root)}:{line}: {around}"))
    return words, matches


def problems(root: Path) -> list[str]:
    """Return a sentence for each phrase beyond its limit and each class name with several definitions."""
    words, matches = measure(root)
    counts = Counter((match.area, match.phrase) for match in matches)
    found = [
        f"{area}: {rate:.2f} per 1,000 words, {LIMIT_PER_1000:g} are allowed: {phrase}"
        for (area, phrase), count in sorted(counts.items())
        if (rate := 1000 * count / words[area]) > LIMIT_PER_1000
    ]
    classes: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted((root / "relay").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(str(path.relative_to(root)))
    found += [f"class {name} is defined in {', '.join(paths)}" for name, paths in classes.items() if len(paths) > 1]
    return found


def main(arguments: Sequence[str]) -> int:
    if "--where" in arguments:
        print(*(match.place for match in measure(ROOT)[1]), sep="\n")
    found = problems(ROOT)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
