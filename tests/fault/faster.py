"""A relay with shorter intervals in the search for bad events, which no configuration key changes."""

from __future__ import annotations

import sys

from relay.policy import backoff, cause, diagnosis

MODULES = (backoff, cause, diagnosis)


def faster(**constants_ms: int) -> tuple[str, ...]:
    """Return the command of a relay with these constants. They are set before other modules import them."""
    lines = ["import runpy"]
    for name, value in constants_ms.items():
        (module,) = (module.__name__ for module in MODULES if hasattr(module, name))
        lines.append(f"import {module}; {module}.{name} = {value}")
    lines.append('runpy.run_module("relay", run_name="__main__", alter_sys=True)')
    return sys.executable, "-c", "\n".join(lines), "run"
