"""The journalctl commands of the runbook show what they promise, in a real journal."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import PATIENCE_S, environment

JOURNALD = Path("/usr/lib/systemd/systemd-journald")
OPERATIONS = Path(__file__).parents[2] / "docs" / "run" / "operations.md"
SCRIPT = """
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal /run/systemd/journald.conf.d
printf '[Journal]\\nReadKMsg=no\\nAudit=no\\n' > /run/systemd/journald.conf.d/test.conf
"$JOURNALD" >/dev/null 2>&1 & journald=$!
for _ in $(seq 200); do [ -S /run/systemd/journal/stdout ] && break; sleep 0.05; done
run='JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$PYTHON" -m relay run'
systemd-cat -t relay sh -c "$run" & relay=$!
for _ in $(seq 200); do journalctl -t relay --no-pager | grep -q 'relay started' && break; sleep 0.05; done
kill $relay; wait $relay
RELAY__BATCH__LINGR=5s systemd-cat -t relay sh -c "$run"
journalctl --sync
for options in "" "-p err" "-p warning"; do
  journalctl -t relay $options -o json --output-fields=PRIORITY,MESSAGE --no-pager; echo
done
kill $journald
"""
"""A relay that starts, warns of a broken file, and stops, and one that cannot start. systemd sets JOURNAL_STREAM."""

pytestmark = [
    pytest.mark.skipif(not JOURNALD.exists(), reason="systemd-journald is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system for a journal"),
]


@pytest.fixture
def shown(tmp_path: Path) -> list[list[tuple[int, str]]]:
    """Return priority and text of each line that the commands of the script show."""
    unshare = shutil.which("unshare")
    assert unshare is not None
    if subprocess.run([unshare, "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine forbids own mounts")
    env = environment("http://127.0.0.1:1/v1/events", tmp_path)
    Path(env["RELAY__OUTBOX__PATH"] + "-time").write_text("broken")
    ran = subprocess.run(
        [unshare, "-m", "sh", "-c", SCRIPT],
        env=env | {"JOURNALD": str(JOURNALD), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    parts = ran.stdout.split("\n\n")
    assert len(parts) >= 3, ran
    return [
        [(int(entry["PRIORITY"]), str(entry["MESSAGE"])) for entry in map(json.loads, filter(None, part.split("\n")))]
        for part in parts[:3]
    ]


def test_each_line_has_its_priority_and_the_runbook_finds_the_cause(shown: list[list[tuple[int, str]]]) -> None:
    everything, errors, warnings = shown

    logged = [(priority, json.loads(text)) for priority, text in everything if text.startswith("{")]
    assert {line["level"] for _, line in logged} >= {"info", "warning"}
    assert all(priority == {"info": 6, "warning": 4}[line["level"]] for priority, line in logged)
    assert (6, "relay started") in [(priority, line["message"]) for priority, line in logged]
    assert [priority for priority, _ in errors] == [3]
    assert re.match(r"Error: .*RELAY__BATCH__LINGR.*did you mean", errors[0][1]), errors
    assert warnings == [(priority, text) for priority, text in everything if priority <= 4]


def test_the_runbook_uses_the_options_of_this_test() -> None:
    commands = re.findall(r"journalctl -u [\w-]+ ([^`\n#]*)", OPERATIONS.read_text())

    assert [command.strip() for command in commands] == ["--since -1h", "-p warning"]
