"""Values that the upstream's framework accepts and rejects, as one table for the relay's reader and for the sandbox.

The source is the documentation of the upstream's API. `test_framework_table` compares the times with a real PHP, where
one is installed. The relay may reject more than the framework, but accepts nothing that the framework rejects.
"""

from __future__ import annotations

from typing import Any

EVENT_ID = "550e8400-e29b-41d4-a716-446655440000"

TIMES = (
    "2026-11-27T12:00:00Z",
    "2026-11-27T12:00:00.1Z",
    "2026-11-27T12:00:00.123Z",
    "2026-11-27T12:00:00.123456789012345678901Z",
    "2026-11-27T12:00:00+05:30",
    "2026-11-27T12:00:00-00:00",
    "2026-11-27T12:00:00+23:59",
    "2026-11-27T12:00:00.5+0530",
    "2026-11-27T12:00:00-05",
    "2026-11-27t12:00:00z",
    "2026-11-27t12:00:00.123+01:00",
    "2026-11-27T12:00:00z",
    "2026-11-27 12:00:00Z",
    "2026-11-27 12:00:00+00:00",
    "2026-11-27 12:00:00 +0000",
    "2026-11-27 12:00:00.123 UTC",
    "2026-11-27T12:00:00 GMT",
    "2026-11-27T12:00Z",
    "2026-11-27T12Z",
    "2026-11-27T12-05",
    "2016-12-31T23:59:60Z",
    "2016-12-31T23:59:60.5Z",
    "2026-11-27T24:00:00Z",
    "2026-11-27T24:00Z",
    "20261127T120000Z",
    "20261127T1200+0530",
    "20261127T12:00:00Z",
    "20261127t120000z",
    "2026-W48-5T12:00:00Z",
    "2026-W48-5T12:00:00.123Z",
    "2026W485T120000Z",
    "2026-W48T12:00Z",
    "2026-W53-5T12:00:00Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999Z",
    "2024-02-29T00:00:00Z",
    "2000-02-29T00:00:00Z",
    "2026-11-27T12:00:00Z\n",
    " 2026-11-27T12:00:00.123Z ",
    "\u200b2026-11-27 12:00:00+00:00\u00a0",
)
"""The relay and the framework accept these."""

TIMES_WITHOUT_ZONE = (
    "2026-11-27",
    "20261127",
    "2026-W48-5",
    "2026-11-27T12:00:00",
    "2026-11-27 12:00:00.123",
    "2026-11-27T12",
    "20261127T120000",
    "2026-11-27T12:00:00\n",
)
"""The framework accepts these. The relay rejects them: the upstream's time zone would decide."""

NO_TIMES = (
    "2026-11-27T12:00:00,123Z",
    "20261127T120000,123Z",
    "20261127T120000.123Z",
    "20261127T12:00:00.123Z",
    "20261127T1200.5Z",
    "2026W485T120000.123Z",
    "2026-11-27T120000.123Z",
    "2026-11-27T12:00:00+00:60",
    "2026-11-27T12:00:00+0060",
    "2026-11-27T12:00:00+99:00",
    "2026-11-27T12:00:00+00:00:00.5",
    "2026-11-27T12:00:00Z[UTC]",
    "2026-11-27T12:00:00+01:00[Europe/Paris]",
    "2026-11-27T12:00:61Z",
    "2026-11-27T12:60:00Z",
    "2026-11-27T25:00:00Z",
    "2026-11-27T12:00:00ZZ",
    "2026-11-27T12:00:00:123Z",
    "2026-11-27_12:00:00Z",
    "2026-11-27 12Z",
    "0000-01-01T00:00:00Z",
    "12026-11-27T12:00:00Z",
    "2026-13-01T12:00:00Z",
    "2026-00-01T12:00:00Z",
    "2026-11-00T12:00:00Z",
    "2026-11-31T12:00:00Z",
    "2026-02-29T12:00:00Z",
    "1900-02-29T12:00:00Z",
    "20260229T120000Z",
    "2026-W00-1T12:00:00Z",
    "2026-W54-1T12:00:00Z",
    "2026-331T12:00:00Z",
    "1767225600",
    "1767225600000",
    "1767225600.5",
    "T12:00:00Z",
    "Z",
    "now",
    "yesterday",
    "\u0662\u0660\u0662\u0666-11-27T12:00:00Z",
    "2026-11-27T12:00:00\u221205:00",
    "2026-11-27T12:00:00\uff3a",
    1767225600,
    True,
    [],
)
"""The relay and the framework reject these."""

TIMES_WITH_SECONDS_IN_THE_OFFSET = (
    "2026-11-27T12:00:00+05:30:15",
    "2026-11-27T12:00:00+00:00:00",
    "2026-11-27T12:00:00+053015",
)
"""The table rejects these and PHP 8.2 accepts them. The relay and the sandbox follow the table."""

WHITE_SPACE = " \t\n\u000b\f\r\u0085\u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000"
CONTROLS = "\u0001\u001b\u001f\u007f\u009f"
INVISIBLE = "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u2060\u2061\u2062\u2063\u2064\u2066\ufeff\U000e0020"
BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
OTHER_BLANKS = "\u034f\u17b4\u17b5\u2065\U0001d159"
"""The framework's own list has these, too."""
BLANKS = (*WHITE_SPACE, *CONTROLS, *INVISIBLE, *BLANK_LETTERS, *OTHER_BLANKS, " \u200b\n\u3164", "\ufeff\u0001")
NOT_BLANK = ("\u0301", "\U0001f600", "_", "0", "\u00b7", "\u200bx\u200b")

OPTIONAL_STRINGS = ("source__app_version", "source__os_version", "source__device_model", "subject__type", "subject__id")
"""Fields that may be missing. Given as a blank, the framework reads null, which fails a rule without `nullable`."""

IDS = (EVENT_ID, EVENT_ID.upper(), EVENT_ID + "\n", f" {EVENT_ID}\u00a0", f"\ufeff{EVENT_ID}")
NO_IDS = (
    EVENT_ID.replace("-41d4-", "-11d4-"),
    EVENT_ID.replace("-a716-", "-c716-"),
    EVENT_ID.replace("-", ""),
    "{" + EVENT_ID + "}",
    "urn:uuid:" + EVENT_ID,
    EVENT_ID[:-1],
    EVENT_ID[:-1] + " 0",
    EVENT_ID.replace("0", "\u0660"),
    "",
    "\u200b",
    1,
    [],
)

PLATFORMS = ("tv", " tv", "tv\n", "\u200btv\u3164")
NO_PLATFORMS = ("TV", "t v", "roku", "", " ", 1, ["tv"], {})

RAW_TENANTS = ("1", "2", "2.0", "2.00", "2e0", "20e-1", "0.2E1", "100000000000000.0", "9223372036854775807")
"""JSON numbers that are integers to the framework."""
RAW_NO_TENANTS = ("1.5", "1e15", "1e300", "9223372036854775808.0", '"two"', "[]", "{}", '"1.5"')
RAW_TENANTS_OF_THE_FRAMEWORK = ('"2"', "true", "0", "-1", "0.0")
"""The relay rejects these: the upstream documents integers, and tenant ids start at 1."""

OBJECTS: tuple[Any, ...] = ({}, [], {"a": 1})
NO_OBJECTS: tuple[Any, ...] = ("x", 1, True)

JSON_TYPES = (
    "application/json",
    "application/json; charset=utf-8",
    "application/json;charset=UTF-8",
    'application/json; charset="utf-8"',
    "application/json; charset=",
    "application/json; charset=us-ascii",
    "application/json; charset=iso-8859-1",
    "application/json; charset=utf-16; profile=x",
    "application/json, application/json",
    "application/json, text/plain",
    "application/vnd.api+json",
    "application/cloudevents+json; charset=utf-8",
    "application/reports+json",
    "application/csp-report+json",
    "text/json",
    "application/jsonrequest",
)
"""The framework reads a body as JSON with these, and the relay reads an ASCII body."""
OTHER_JSON_TYPES = (
    "",
    "text/plain",
    "text/plain;charset=UTF-8",
    "text/plain; charset=latin-1",
    ";",
    "Application/JSON",
)
"""The relay reads a body as JSON with these, too. It sends application/json to the upstream."""
LINE_TYPES = (
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines; charset=utf-8",
    "Application/X-NDJSON",
)
NO_TYPES = (
    "application/json-seq",
    "application/geo+json-seq",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=/json",
    "application/xml; type=a+json",
    "application/xml",
    "text/html",
    "application/javascript",
    "application/octet-stream",
    "json",
    "\xff\xfe",
)
