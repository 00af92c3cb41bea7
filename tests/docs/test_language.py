"""The check of the project's English finds a phrase and a class name that is defined twice."""

from __future__ import annotations

from pathlib import Path

from tests.docs.language import problems


def test_a_phrase_beyond_the_limit_is_reported(tmp_path: Path) -> None:
    package = tmp_path / "relay"
    package.mkdir()
    (package / "one.py").write_text('"""Return the pending events of a device queue."""\n')
    assert problems(tmp_path) == []
    (package / "one.py").write_text('"""Keep what waits."""\n')
    assert problems(tmp_path) == ["relay: 333.33 per 1,000 words, 1 are allowed: a relative clause instead of a noun"]


def test_a_class_name_with_two_meanings_is_reported(tmp_path: Path) -> None:
    package = tmp_path / "relay"
    package.mkdir()
    for name in ("one", "two"):
        (package / f"{name}.py").write_text("class Limits:\n    pass\n")
    assert problems(tmp_path) == ["class Limits is defined in relay/one.py, relay/two.py"]
