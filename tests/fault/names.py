"""A name service that hangs for some names (see names.c). Needs a C compiler and LD_PRELOAD, no privileges."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fault.shim import library

SILENT, LOCAL = "events.silent.test", "events.local.test"


def with_silent_names(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process in which lookups of SILENT hang and LOCAL is 127.0.0.1."""
    return dict(env) | {"LD_PRELOAD": library("names.c")}
