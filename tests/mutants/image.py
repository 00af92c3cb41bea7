"""Mutants of the container image. Each test builds it, which takes a minute."""

from __future__ import annotations

from tests.mutants.mutant import mutant

TESTS = "tests/deploy/test_image.py"
LAST_STAGE = "FROM scratch\nCOPY --from=root / /\n"

MUTANTS = (
    mutant(
        "the standard library has bytecode that compares times",
        "image",
        f"{TESTS}::test_all_code_is_compiled",
        ("Dockerfile", "compileall -q -f -j 0 --invalidation-mode unchecked-hash -x", "compileall -q -j 0 -x"),
    ),
    mutant(
        "bytecode contains the time of the build",
        "image",
        f"{TESTS}::test_the_same_sources_make_the_same_image",
        ("Dockerfile", "install --no-compile --no-index", "install --no-index"),
        ("Dockerfile", "compileall -q -f -j 0 --invalidation-mode unchecked-hash /opt", "compileall -q -j 0 /opt"),
    ),
    mutant(
        "a lower layer contains pip",
        "image",
        f"{TESTS}::test_the_image_contains_no_build_tools",
        ("Dockerfile", LAST_STAGE, "FROM root\n"),
    ),
    mutant(
        "the image runs as root",
        "image",
        f"{TESTS}::test_the_image_stores_and_forwards_on_a_read_only_root",
        ("Dockerfile", "USER 65532:65532", "USER 0:0"),
    ),
    mutant(
        "the build tools are not locked",
        "image",
        f"{TESTS}::test_the_image_contains_only_locked_packages",
        ("Dockerfile", "pip install --require-hashes -r requirements-build.lock", "pip install setuptools"),
    ),
)
