"""`relay sandbox` prints its address and an example at the start, and a summary at the end."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from itertools import pairwise
from urllib.parse import urlsplit

import pytest

from tests.unit.cli.harness import call


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_printed_example_works_and_the_summary_counts_it(number: signal.Signals) -> None:
    command = [sys.executable, "-u", "-m", "relay", "sandbox", "--listen", "127.0.0.1:0", "--api-key", "k3y", "--print"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sandbox:
        assert sandbox.stdout is not None
        line = next(line for line in sandbox.stdout if "curl" in line)
        _, url, *options = shlex.split(line)
        headers = dict(option.split(": ") for flag, option in pairwise(options) if flag == "-H")
        place = urlsplit(url)
        connection = HTTPConnection(place.netloc, timeout=30)
        connection.request("POST", place.path, options[-1].encode(), headers)
        status = connection.getresponse().status
        connection.close()
        sandbox.send_signal(number)
        report, _ = sandbox.communicate(timeout=60)

    assert status == 202
    assert headers["X-Events-Key"] == "k3y"
    assert sandbox.returncode == 0
    assert re.search(r"^[-\dT:.]+Z  202  1 event, tenant 1, tv, tv-1\n  {.*post\.view.*}$", report, re.MULTILINE)
    assert re.search(r"^requests +1$", report, re.MULTILINE)
    assert re.search(r"^by status +202: 1$", report, re.MULTILINE)


def test_an_address_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        listen = f"127.0.0.1:{occupied.getsockname()[1]}"
        result = call("sandbox", "--listen", listen, environ={})

    assert result.exit_code == 1
    assert f"cannot listen on {listen}" in result.stderr


def test_an_invalid_address_is_a_usage_error() -> None:
    result = call("sandbox", "--listen", "nonsense", environ={})

    assert result.exit_code == 2
    assert "HOST:PORT" in result.stderr


def test_a_key_that_is_not_utf_8_is_a_usage_error() -> None:
    result = call("sandbox", "--api-key", "\udcff", environ={})

    assert result.exit_code == 2
    assert "is not UTF-8" in result.stderr
