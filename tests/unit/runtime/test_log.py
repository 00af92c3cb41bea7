"""Content and form of log lines: bounds, escaping and masked secrets."""

import io
import json
import logging
import re
import sys
import warnings

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from relay.config import Log
from relay.runtime import log
from relay.runtime.log import (
    FIELD_CHARS,
    KEPT_CHARS,
    KEPT_LINES,
    MAX_ITEMS,
    MESSAGE_CHARS,
    TRACEBACK_CHARS,
    Gate,
)
from relay.runtime.metrics import Metrics
from relay.runtime.secret import MASK, Secret

CANARY = "CANARY-7f3a9c"


class StoppedClock:
    """A clock with the fixed wall time 2026-11-23T08:00:00Z."""

    boot_id = "boot"

    def __init__(self) -> None:
        self.now_ms = 0

    def monotonic_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return 1_795_420_800_000

    def chance(self) -> float:
        raise AssertionError("the log draws no random numbers")

    def new_event_id(self) -> str:
        raise AssertionError("the log makes no ids")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class BrokenStream(io.StringIO):
    """A pipe without a reader while `broken` is True."""

    broken = True

    def write(self, text: str) -> int:
        if self.broken:
            raise BrokenPipeError
        return super().write(text)


WAIT_S = 10.0


def count(counter) -> float:
    (family,) = counter.collect()
    return next(sample.value for sample in family.samples if sample.name.endswith("_total"))


@pytest.fixture(autouse=True)
def restore_global_logging():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    log.close()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    log.set_secrets(())
    log.set_level("info")


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def clock():
    return StoppedClock()


@pytest.fixture
def json_log(stream, clock):
    """Return a logger that writes JSON to `stream`, with the canary as a secret."""
    log.configure(Log(format="json"), [Secret(CANARY)], stream=stream, clock=clock)
    return structlog.get_logger("relay.test")


@pytest.fixture
def console_log(stream, clock):
    log.configure(Log(format="console"), [Secret(CANARY)], stream=stream, clock=clock)
    return structlog.get_logger("relay.test")


def written(stream: io.StringIO) -> str:
    assert log.flush(WAIT_S)
    return stream.getvalue()


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in written(stream).splitlines()]


# -- form ------------------------------------------------------------------------------------------------


def test_json_line_has_time_level_logger_message_and_fields(json_log, stream):
    json_log.info("batch delivered", events=3, device="d", ok=True, ratio=0.5, nothing=None)

    assert lines(stream) == [
        {
            "timestamp": "2026-11-23T08:00:00.000Z",
            "level": "info",
            "logger": "relay.test",
            "message": "batch delivered",
            "events": 3,
            "device": "d",
            "ok": True,
            "ratio": 0.5,
            "nothing": None,
        }
    ]


def test_console_line_is_readable_text(console_log, stream):
    console_log.warning("endpoint paused", tenant=2)

    (line,) = written(stream).splitlines()
    assert re.fullmatch(r"2026-11-23T08:00:00.000Z \[warning *\] endpoint paused +\[relay.test\] tenant=2", line)


@pytest.mark.parametrize(("stream_type", "is_json"), [(io.StringIO, True), (Terminal, False)])
def test_format_auto_is_console_on_a_terminal_and_json_otherwise(stream_type, is_json, clock):
    stream = stream_type()
    log.configure(Log(format="auto"), stream=stream, clock=clock)

    structlog.get_logger().info("started")

    assert written(stream).startswith("{") is is_json


def test_no_color_disables_colors(clock, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    log.configure(Log(format="console"), stream=stream, clock=clock)

    structlog.get_logger().info("started")

    assert "\x1b" not in written(stream)


def test_level_change_applies_to_existing_loggers(json_log, stream):
    bound = json_log.bind(part="outbox")
    bound.debug("hidden")
    log.set_level("debug")
    bound.debug("shown")
    log.set_level("error")
    bound.warning("hidden")

    assert [line["message"] for line in lines(stream)] == ["shown"]


def test_configuring_again_writes_each_line_once_to_the_new_stream(json_log, stream, clock):
    other = io.StringIO()
    log.configure(Log(format="json"), stream=other, clock=clock)

    json_log.info("own")
    logging.getLogger("library").warning("foreign")

    assert written(stream) == ""
    assert [line["message"] for line in lines(other)] == ["own", "foreign"]


# -- secrets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["json", "console"])
@pytest.mark.parametrize("secret", [CANARY, 'CANARY"with\\quotes', "CANARY/with?url=signs&", "CANARY'+"])
def test_no_line_contains_a_secret(format_, secret, stream, clock):
    log.configure(Log(level="debug", format=format_), [Secret(secret)], stream=stream, clock=clock)
    logger = structlog.get_logger(f"logger.{secret}").bind(bound=secret)

    logger.debug(
        f"event {secret}", text=f"a{secret}b", key=Secret(secret), raw=secret.encode(), **{f"name-{secret}": 1}
    )
    logger.info(
        "nested", value={"a": [{secret: (secret, {secret})}]}, deep=[[[[[[secret]]]]]], url=f"https://x/?k={secret}"
    )
    try:
        header = {"X-Events-Key": secret}  # Tracebacks contain no local variables.
        raise ValueError(f"rejected: {header}")
    except ValueError as error:
        logger.exception("failed", error=error)
        logging.getLogger("aiohttp.client").error("key %s", secret, exc_info=error)

    assert "CANARY" not in written(stream)
    assert MASK in written(stream)


def test_secret_with_another_secret_as_prefix_is_masked_completely(stream, clock):
    log.configure(Log(format="json"), [Secret("abc"), Secret("abcdef")], stream=stream, clock=clock)

    structlog.get_logger().info("x", key="abcdef", other="abc")

    assert (lines(stream)[0]["key"], lines(stream)[0]["other"]) == (MASK, MASK)


def test_new_secrets_are_masked_after_a_reload(json_log, stream):
    log.set_secrets([Secret("CANARY-new")])

    json_log.info("reloaded", key="CANARY-new")

    assert lines(stream)[0]["key"] == MASK


def test_last_lines_are_stored_in_memory_as_written_and_cut(json_log, stream):
    for n in range(KEPT_LINES + 5):
        json_log.info(CANARY, n=n, long=["x" * FIELD_CHARS] * 5)

    lines = log.last_lines()

    assert len(lines) == KEPT_LINES
    assert max(map(len, lines)) == KEPT_CHARS
    assert CANARY not in "".join(lines)
    assert written(stream).splitlines()[-1].startswith(lines[-1])


def test_secrets_are_masked_before_text_is_cut(json_log, stream):
    json_log.info("x", body="-" * (FIELD_CHARS - 4) + CANARY, table={"-" * (MESSAGE_CHARS - 4) + CANARY: 1})
    try:
        raise ValueError(CANARY + "-" * (TRACEBACK_CHARS - len(CANARY) + 3))
    except ValueError:
        json_log.exception("y")

    assert "CANA" not in written(stream)
    assert CANARY[-4:] not in written(stream)


def test_masking_of_short_secrets_keeps_the_line_valid_json(stream, clock):
    log.configure(Log(format="json"), [Secret('"'), Secret(","), Secret("e"), Secret("")], stream=stream, clock=clock)

    structlog.get_logger().info("hello", a='x"y,e')

    assert lines(stream)[0]["a"] == f"x{MASK}y{MASK}{MASK}"


# -- text of other parties -------------------------------------------------------------------------------

FORGED = 'a\n2026-11-23T08:00:00Z [error] forged\r\x1b[31mred\x00\x7f\x9b31m\u2028\u202e"}'


def test_control_characters_are_escaped_on_the_console(console_log, stream):
    console_log.info(FORGED, device=FORGED, nested={FORGED: [FORGED]}, raw=FORGED.encode())

    (line,) = written(stream).splitlines()
    assert line.isprintable()


@given(st.text(), st.text())
def test_any_text_becomes_one_printable_line(event, value):
    stream = io.StringIO()
    log.configure(Log(format="console"), stream=stream, clock=StoppedClock())

    structlog.get_logger().info(event, value=value)

    (line,) = written(stream).removesuffix("\n").split("\n")
    assert line.isprintable()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), st.lists))
def test_any_value_becomes_one_line_of_strict_json(value):
    stream = io.StringIO()
    log.configure(Log(format="json"), stream=stream, clock=StoppedClock())

    structlog.get_logger().info("x", value=value)

    def reject(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    (line,) = written(stream).splitlines()
    json.loads(line, parse_constant=reject)
    assert line.isascii()


def test_fields_cannot_replace_timestamp_level_or_logger(json_log, stream):
    json_log.info("x", level="critical", timestamp="1970", logger="other")

    line = lines(stream)[0]
    assert (line["level"], line["timestamp"], line["logger"]) == ("info", "2026-11-23T08:00:00.000Z", "relay.test")


def test_long_values_are_cut(json_log, stream):
    json_log.info(
        "e" * 3_000,
        field="f" * 3_000,
        items=list(range(1_000)),
        number=10**5_000,
        table=dict.fromkeys(range(99)),
        names={"n" * 300: 1},
    )

    line = lines(stream)[0]
    assert line["message"] == "e" * FIELD_CHARS + "... (1000 more)"
    assert line["field"] == "f" * FIELD_CHARS + "... (1000 more)"
    assert len(line["items"]) == len(line["table"]) == MAX_ITEMS
    assert line["number"] == "<integer of 16610 bits>"
    assert line["names"] == {"n" * MESSAGE_CHARS + "... (44 more)": 1}


def test_value_with_a_failing_repr_is_logged(json_log, stream):
    class FailingRepr:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    json_log.info("x", value=FailingRepr())

    assert "FailingRepr instance" in lines(stream)[0]["value"]


# -- tracebacks ------------------------------------------------------------------------------------------


def fail() -> None:
    local = "LOCAL-VALUE"
    raise ValueError(f"because{local[:0]}")


def test_traceback_in_json_is_one_string_without_local_variables(json_log, stream):
    try:
        fail()
    except ValueError:
        json_log.exception("part died")

    (line,) = lines(stream)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("\nValueError: because")
    assert "LOCAL-VALUE" not in line["exception"].replace('local = "LOCAL-VALUE"', "")


def test_traceback_lines_on_the_console_cannot_be_mistaken_for_log_lines(console_log, stream):
    try:
        raise ValueError(FORGED)
    except ValueError:
        console_log.exception("part died")

    first, *others = written(stream).removesuffix("\n").split("\n")
    assert first.startswith("2026-11-23T08:00:00.000Z [error")
    assert len(others) > 2
    assert all(line.startswith("    ") and line.isprintable() for line in others)


def test_long_traceback_keeps_its_end(json_log, stream):
    try:
        raise ValueError("-" * 100_000 + "the end")
    except ValueError:
        json_log.exception("x")

    text = lines(stream)[0]["exception"]
    assert len(text) < TRACEBACK_CHARS


# -- libraries -------------------------------------------------------------------------------------------


def test_library_warnings_and_errors_are_logged_in_the_same_form(json_log, stream):
    logging.getLogger("aiohttp.access").info("GET /")
    logging.getLogger("asyncio").debug("slow")
    logging.getLogger("aiohttp.server").error("Error handling request from %s", "peer")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("coroutine was never awaited", RuntimeWarning, stacklevel=1)

    own, warning = lines(stream)
    assert (own["logger"], own["level"]) == ("aiohttp.server", "error")
    assert own["message"] == "Error handling request from peer"
    assert warning["logger"] == "py.warnings"
    assert "coroutine was never awaited" in warning["message"]


def test_library_record_with_mismatched_arguments_is_logged_without_them(json_log, stream):
    """The standard library would print both to stderr without masking secrets."""
    (pipe,) = (handler for handler in logging.getLogger().handlers if type(handler).__module__ == log.__name__)

    pipe.handle(logging.LogRecord("library", logging.ERROR, "", 0, f"%d {CANARY}", (CANARY,), None))

    assert lines(stream)[0]["message"] == f"%d {MASK}"


def test_library_that_repeats_itself_is_heard_once_a_second(stream, clock):
    metrics = Metrics()
    log.configure(Log(format="json"), stream=stream, clock=clock, suppressed=metrics.log_lines_suppressed)
    server = logging.getLogger("aiohttp.server")

    for peer in range(10_000):
        server.error("Error handling request from %s", peer)
    server.error("something else")
    clock.now_ms += 1_000
    server.error("Error handling request from %s", "last")

    first, other, last = lines(stream)
    assert first["message"] == "Error handling request from 0"
    assert "suppressed" not in first
    assert other["message"] == "something else"
    assert (last["message"], last["suppressed"]) == ("Error handling request from last", 9_999)
    assert metrics.registry.get_sample_value("relay_log_lines_suppressed_total") == 9_999


def test_level_of_the_log_holds_for_libraries_too(stream, clock):
    log.configure(Log(level="error", format="json"), stream=stream, clock=clock)

    logging.getLogger("library").warning("hidden")
    logging.getLogger("library").log(45, "between two levels")

    assert [(line["message"], line["level"]) for line in lines(stream)] == [("between two levels", "error")]


# -- failing streams -------------------------------------------------------------------------------------


def test_broken_stream_raises_nothing_and_a_notice_replaces_the_lost_lines(clock):
    stream, lost = BrokenStream(), Metrics().log_lines_lost
    log.configure(Log(format="json"), stream=stream, clock=clock, lost=lost)
    logger = structlog.get_logger()

    logger.error("lost")
    logger.error("lost")
    assert log.flush(WAIT_S)
    stream.broken = False
    logger.info("back")
    logger.info("next")

    notice, back, following = lines(stream)
    assert (notice["message"], notice["lines"], notice["level"]) == ("log lines are missing", 2, "warning")
    assert (back["message"], following["message"]) == ("back", "next")
    assert count(lost) == 2


def test_closed_stream_raises_nothing(json_log, stream):
    stream.close()

    json_log.error("lost")


def test_log_is_written_to_stderr_by_default(capsys, clock):
    log.configure(Log(format="json"), clock=clock)

    structlog.get_logger().info("started")
    assert log.flush(WAIT_S)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert '"started"' in captured.err
    assert sys.stderr is not None


# -- the gate --------------------------------------------------------------------------------------------


def test_gate_admits_one_line_per_key_and_interval_and_returns_the_suppressed_number():
    gate = Gate(per_ms=1_000)

    admitted = [gate.admit("a", now) for now in (0, 1, 999, 1_000, 1_001, 5_000)]

    assert admitted == [0, None, None, 2, None, 1]


def test_gate_limits_each_key_separately():
    gate = Gate()

    assert [gate.admit(key, 0) for key in ("a", "b", "a", "b")] == [0, 0, None, None]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), max_size=300))
def test_gate_bounds_lines_over_all_keys(arrivals):
    """The gate admits at most `max_keys` + 1 lines in any interval and counts all others."""
    metrics = Metrics()
    gate = Gate(metrics.log_lines_suppressed, per_ms=1_000, max_keys=4)
    now, written = 0, []
    for key, step_ms in arrivals:
        now += step_ms
        if gate.admit(key, now) is not None:
            written.append(now)

    for start in written:
        assert sum(start <= time < start + 1_000 for time in written) <= 4 + 1
    suppressed = metrics.registry.get_sample_value("relay_log_lines_suppressed_total")
    assert len(written) + suppressed == len(arrivals)
