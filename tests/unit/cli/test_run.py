"""`relay run` restores the garbage collector after its imports."""

from __future__ import annotations

import json
import subprocess
import sys

_SCRIPT = """
import gc, json, ssl
original = ssl.create_default_context
import relay.cli.run
print(json.dumps([gc.isenabled(), gc.get_freeze_count() > 0, ssl.create_default_context is original]))
"""


def test_the_imports_leave_the_collector_enabled_and_ssl_unchanged() -> None:
    ended = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)

    assert json.loads(ended.stdout) == [True, True, True]
