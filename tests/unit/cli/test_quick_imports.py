"""`relay run` restores the changed settings after its imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys

_SCRIPT = """
import gc, json, ssl
made = ssl.create_default_context
import relay.cli.run
import aiohttp.connector
unused = aiohttp.connector._SSL_CONTEXT_VERIFIED
print(json.dumps({
    "restored": ssl.create_default_context is made,
    "collects": gc.isenabled(),
    "verifies": unused.verify_mode == ssl.CERT_REQUIRED and unused.check_hostname,
    "trusts": unused.cert_store_stats()["x509"],
}))
"""


def test_only_the_unused_default_context_of_the_library_has_no_authorities() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, env=dict(os.environ)
    )

    assert json.loads(ended.stdout) == {"restored": True, "collects": True, "verifies": True, "trusts": 0}
