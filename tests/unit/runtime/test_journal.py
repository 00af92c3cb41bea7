"""The priority of a line is written to the journal only."""

import io
import json
import os
import sys

import click
import pytest
import structlog
from relay.config import Log
from relay.runtime import log
from relay.runtime.journal import ErrorStream, is_journal, mark_errors
from relay.runtime.log_queue import LogQueue


def identity(descriptor: int) -> str:
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    with os.fdopen(reading) as read, os.fdopen(writing, "w") as write:
        yield read, write


@pytest.fixture
def json_log(pipe, monkeypatch):
    """Return a logger whose stream is the journal's."""
    monkeypatch.setenv("JOURNAL_STREAM", identity(pipe[1].fileno()))
    log.configure(Log(level="debug", format="json"), stream=pipe[1])
    yield structlog.get_logger("relay.test")
    log.close()
    structlog.reset_defaults()
    log.set_level("info")


def test_the_journal_is_the_stream_that_systemd_names(pipe):
    write = pipe[1]
    with open(os.devnull) as other:
        assert is_journal(write, {"JOURNAL_STREAM": identity(write.fileno())})
        assert not is_journal(write, {"JOURNAL_STREAM": identity(other.fileno())})
    assert not is_journal(write, {})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2), ("exception", 3)]
)
def test_a_json_line_has_the_priority_of_its_level(json_log, pipe, level, priority):
    getattr(json_log, level)("text", events=1)

    line = pipe[0].readline()

    assert line[:4] == f"<{priority}>{{"
    assert json.loads(line[3:])["message"] == "text"
    assert log.last_lines()[-1] == line[3:-1]


def test_every_line_of_a_traceback_on_the_console_has_a_priority(json_log, pipe, monkeypatch):
    log.configure(Log(format="console"), stream=pipe[1])
    try:
        raise ValueError("bad")
    except ValueError:
        json_log.exception("failed")

    lines = [pipe[0].readline() for _ in range(5)]

    assert [line[:3] for line in lines] == ["<3>"] * 5
    assert "ValueError: bad" in lines[4]


def test_the_notice_of_lost_lines_is_a_warning(json_log, pipe, monkeypatch):
    monkeypatch.setattr(LogQueue, "put", lambda queue, line: queue._write(f"{queue._notice(2)}\n"))
    json_log.info("lost")

    assert pipe[0].readline().startswith('<4>{"timestamp"')


def test_text_beside_the_log_is_an_error_line_by_line():
    raw = io.BytesIO()
    stream = ErrorStream(raw, "utf-8", line_buffering=True)

    stream.write("Traceback:\n")
    stream.write("  File")
    stream.write(" x\nValueError: \u2026\n")

    assert raw.getvalue().decode() == "<3>Traceback:\n<3>  File x\n<3>ValueError: \u2026\n"


def test_a_failed_command_is_marked_by_the_library_of_the_command_line(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", ErrorStream(raw, "utf-8"))

    click.ClickException("one\ntwo").show()

    assert raw.getvalue() == b"<3>Error: one\n<3>two\n"


def test_stderr_is_marked_only_in_the_journal(pipe, monkeypatch):
    monkeypatch.setattr(sys, "stderr", pipe[1])
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    mark_errors()
    assert sys.stderr is pipe[1]
