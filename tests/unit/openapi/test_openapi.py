"""The API description agrees with the code that validates and responds, in fields, types and statuses."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from relay import __version__, openapi
from relay.config import Http
from relay.event import fast_reader
from relay.event.reader import EventDefaults, Reader, Rejection
from relay.event.rules import (
    MAX_DEVICE_ID_CHARACTERS,
    MAX_ERROR_BYTES,
    MAX_TENANT_ID,
    MIN_TENANT_ID,
    PLATFORMS,
    REQUIRED,
    RULES,
)
from relay.event.shown import MAX_QUOTED_CHARACTERS
from relay.event.strict_json import MAX_DEPTH
from relay.event.values import BLANKS, MOMENT
from relay.http import static_files
from relay.http.content_coding import CODINGS
from relay.http.request import BodyHandler, Request
from relay.http.response import RETRY_AFTER_S
from relay.http.response import Response as HttpResponse
from relay.http.static_files import StaticFiles
from relay.ingest.content_type import CODING_NAMES, KINDS
from relay.ingest.events_api import CORS_HEADERS, CORS_MAX_AGE_S, EVENTS_PATH, HttpIngest
from relay.openapi import DescribedValues, describe
from relay.ops.dead_letters import MAX_ID, MAX_SEARCH_CHARS, MAX_SHOWN, DeadLetterChoice
from relay.outbox import EventState, Ledger, OutboxFull
from relay.runtime.metrics import DEAD_REASONS, UPSTREAM_STATES, Metrics
from relay.runtime.secret import Secret

from tests.support import framework_table
from tests.support.ingest_harness import (
    BODY,
    EVENT,
    EVENT_ID,
    HandClock,
    Response,
    ScriptedOutbox,
    Served,
    gzipped,
    request,
)
from tests.support.ops_harness import WRITABLE, dead_letter
from tests.support.ops_harness import Served as Operations

ORIGIN = "http://app.example"
TOKEN = "a-token"
MAX_EVENT_BYTES = 64 << 10
VALUES = DescribedValues(1 << 20, MAX_EVENT_BYTES, "full", REQUIRED)
BOTH = {"events", "operations"}
SOURCE_OF_RESPONSES = ("http/*.py", "ingest/*.py", "ops/*.py")


class Stage:
    """Both interfaces behind one listener, each with an outbox that the test controls."""

    def __init__(self, **settings: Any) -> None:
        self.operations = Operations()
        self.dead = self.operations.outbox
        self.dead.letters = {1: dead_letter(1), 2: dead_letter(2)}
        self.ops = self.operations.ops
        self.outbox = ScriptedOutbox(states={bytes.fromhex(EVENT_ID.replace("-", "")): "pending"})
        clock = HandClock()
        reader = Reader(EventDefaults(), MAX_EVENT_BYTES, clock.new_event_id, lambda: "2026-01-01T00:00:00.000Z")
        self.http = HttpIngest(reader, self.outbox, Http(), Metrics())  # type: ignore[arg-type]
        makers = {
            static_files.CLIENT_PATH: static_files.client,
            static_files.DESCRIPTION_PATH: lambda: static_files.description(describe(VALUES, BOTH)),
        }
        self.files = StaticFiles(makers, self._dispatch)
        self.served = Served(self.files.handle, allowed_origins=[ORIGIN], **settings)

    def _dispatch(self, request: Request) -> BodyHandler | HttpResponse:
        serving = self.http if request.raw_path.startswith(EVENTS_PATH) else self.ops
        return serving.handle(request)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    async with stage.served:
        yield stage


DESCRIPTION = describe(VALUES, BOTH)
COMPONENTS = DESCRIPTION["components"]
OPERATIONS = [
    (method, path)
    for path, item in DESCRIPTION["paths"].items()
    for method in item
    if method in ("get", "head", "post", "options")
]


def validator(component: str, description: dict[str, Any] = DESCRIPTION) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{component}", "components": description["components"]}
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


# --- validity as OpenAPI


@pytest.mark.parametrize(
    "description",
    [DESCRIPTION, describe(VALUES, {"events"}), describe(VALUES, {"operations"})],
    ids=["one listener", "events API alone", "operations alone"],
)
def test_the_description_of_each_listener_is_valid_openapi_3_1(description: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(description).validate()
    assert description["openapi"].startswith("3.1")
    assert description["info"]["version"] == __version__


def test_each_listener_describes_what_it_serves() -> None:
    apps, operations_alone = (describe(VALUES, {interface})["paths"] for interface in ("events", "operations"))

    assert set(apps) == {EVENTS_PATH, f"{EVENTS_PATH}/{{event_id}}", "/relay.js", "/openapi.json"}
    assert set(operations_alone) == {*Stage().ops.routes, f"{EVENTS_PATH}/{{event_id}}", "/openapi.json"}
    assert set(DESCRIPTION["paths"]) == {*apps, *operations_alone}


def test_every_component_is_referenced() -> None:
    text = json.dumps(DESCRIPTION)
    for kind in ("schemas", "headers", "responses"):
        for name in COMPONENTS[kind].keys() - {"Unknown", "WrongMethod"}:
            assert f'"#/components/{kind}/{name}"' in text, name


# --- an event


def test_the_description_has_the_fields_of_the_rules_and_the_fast_reader() -> None:
    event = COMPONENTS["schemas"]["Event"]
    for prefix, known in (("", fast_reader.Fields), ("source.", fast_reader.Source), ("subject.", fast_reader.Subject)):
        described = event["properties"][prefix.rstrip(".")] if prefix else event
        assert set(described["properties"]) == set(RULES[prefix]) == set(known.__annotations__)


def reader(**defaults: Any) -> Reader:
    return Reader(EventDefaults(**defaults), MAX_EVENT_BYTES, lambda: EVENT_ID, lambda: "2026-01-01T00:00:00.000Z")


FULL_EVENT = {
    **EVENT,
    "source": {**EVENT["source"], "app_version": "1", "os_version": "2", "device_model": "3"},  # type: ignore[dict-item]
    "subject": {"type": "video", "id": "1"},
    "context": {"a": [1, {}]},
    "occurred_at": "2026-11-23T08:00:00.123+01:00",
}
FIELDS = [f"{prefix}{name}" for prefix, rules in RULES.items() for name in rules]
FIELD_VALUES = [
    None, True, False, 0, 1, -1, 2, 2**63 - 1, 1.5, "", " ", "\t\n", "x", "x" * 255, "x" * 256, [], {}, ["x"],
    {"x": 1}, {"platform": "tv", "device_id": "d"}, {"type": "a", "id": "b"}, *PLATFORMS, "TV",
    EVENT_ID, EVENT_ID.upper(), EVENT_ID.replace("-4", "-1"), EVENT_ID.replace("-", ""),
    "2026-11-23T08:00:00Z", "2026-11-23T08:00:00", "2026-11-23", "2026-13-23T08:00:00Z",
    2.0, f" {EVENT_ID}\n", "\u200btv\u3164", "\u200b", "\U000e0020", " " * 9 + "x" * 255, " " * 9 + "x" * 256,
    *framework_table.TIMES, *framework_table.NO_TIMES, *framework_table.TIMES_WITHOUT_ZONE,
]  # fmt: skip


def with_field(event: dict[str, Any], field: str, change: Callable[[dict[str, Any], str], object]) -> dict[str, Any]:
    """Return a copy of the event, after `change` was applied to the object that contains the dotted field."""
    changed: dict[str, Any] = json.loads(json.dumps(event))
    holder, _, name = field.rpartition(".")
    change(changed[holder] if holder else changed, name)
    return changed


@pytest.mark.parametrize("field", FIELDS)
def test_a_value_is_valid_by_the_description_if_the_relay_accepts_it(field: str) -> None:
    outcomes = []
    for value in FIELD_VALUES:
        event = with_field(FULL_EVENT, field, lambda holder, name, value=value: holder.update({name: value}))
        accepted = isinstance(reader().read(json.dumps(event).encode(), "json"), list)
        assert validator("Event").is_valid(event) == accepted, value
        outcomes.append(accepted)
    assert True in outcomes and False in outcomes


@pytest.mark.parametrize(
    "defaults",
    [
        {},
        {"tenant_id": 1},
        {"platform": "tv"},
        {"device_id": "d"},
        {"tenant_id": 1, "platform": "tv", "device_id": "d"},
    ],
    ids=str,
)
def test_a_field_is_required_by_the_description_if_the_relay_requires_it(defaults: dict[str, Any]) -> None:
    reading = reader(**defaults)
    description = describe(VALUES._replace(required=reading.required), BOTH)
    needed = []
    for field in FIELDS:
        event = with_field(FULL_EVENT, field, lambda holder, name: holder.pop(name))
        accepted = isinstance(reading.read(json.dumps(event).encode(), "json"), list)
        assert validator("Event", description).is_valid(event) == accepted, field
        needed += [] if accepted else [field]
    assert "event_type" in needed and "event_id" not in needed


def test_a_tenant_is_valid_by_the_description_if_the_relay_allows_it() -> None:
    reading = Reader(EventDefaults(), MAX_EVENT_BYTES, lambda: EVENT_ID, lambda: "", allowed_tenants=(2, 1))
    description = describe(VALUES._replace(allowed_tenants=reading.allowed_tenants), BOTH)
    for value in FIELD_VALUES:
        event = {**FULL_EVENT, "tenant_id": value}
        accepted = isinstance(reading.read(json.dumps(event).encode(), "json"), list)
        assert validator("Event", description).is_valid(event) == accepted, value


@pytest.mark.parametrize(
    "body",
    [
        EVENT, [EVENT], [EVENT, EVENT], {"events": [EVENT]}, {"events": [EVENT], "x": 1}, {**EVENT, "events": [1]},
        [], {}, {"events": []}, {"events": EVENT}, {"events": None}, {"events": [EVENT], "event_type": 1}, 1, None, "x",
        [[EVENT]], [{}], [EVENT, {}], {"events": [EVENT, {}]}, {"event": [EVENT]},
    ],
    ids=lambda body: json.dumps(body)[:30],
)  # fmt: skip
def test_a_body_is_valid_by_the_description_if_the_relay_accepts_it(body: Any) -> None:
    accepted = not isinstance(reader().read(json.dumps(body).encode(), "json"), Rejection)
    assert validator("Body").is_valid(body) == accepted


# --- media types and codings


async def test_described_media_types_and_codings_are_accepted_and_others_are_415(stage: Stage) -> None:
    operation = DESCRIPTION["paths"][EVENTS_PATH]["post"]
    assert set(operation["requestBody"]["content"]) == set(KINDS) - {""}
    for media_type in operation["requestBody"]["content"]:
        assert (await stage.served.post(BODY, f"Content-Type: {media_type}")).status == 202
    assert (await stage.served.post(BODY, "Content-Type: application/xml")).status == 415
    (coding,) = operation["parameters"]
    assert coding["schema"]["enum"] == ["identity", *CODING_NAMES]
    response = await stage.served.post(BODY, "Content-Encoding: br")
    assert (response.status, response.headers["accept-encoding"]) == (415, ", ".join(CODINGS))


# --- statuses


class Try(NamedTuple):
    """A request with a described response, and the setup before it."""

    raw: bytes
    before: Callable[[Stage], None] = lambda stage: None


def sent(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    return request(f"{method} {path} HTTP/1.1", f"Content-Length: {len(body)}", *headers) + body


def chosen(path: str, body: bytes = b'{"all": true}', *headers: str) -> bytes:
    return sent("POST", path, *(headers or ("Content-Type: application/json",)), body=body)


def outbox_full(stage: Stage) -> None:
    stage.outbox.error = OutboxFull("the outbox is full")
    stage.outbox.room_events = 0
    stage.dead.fails = True


def dead_lettered(stage: Stage) -> None:
    stage.outbox.states = dict.fromkeys(stage.outbox.states, "dead_lettered")


def with_token(stage: Stage) -> None:
    stage.ops.token = Secret(TOKEN)


def unready(stage: Stage) -> None:
    stage.dead.state = WRITABLE._replace(writable=False, problem="the disk is full")


POST = EVENTS_PATH
FIND = f"{EVENTS_PATH}/{EVENT_ID}"
PREFLIGHT = (f"Origin: {ORIGIN}", "Access-Control-Request-Method: POST", "Access-Control-Request-Local-Network: true")
CURRENT = "If-None-Match: *"
MOVES = {
    f"/dead-letters/{what}": [
        Try(chosen(f"/dead-letters/{what}")),
        Try(chosen(f"/dead-letters/{what}"), with_token),
        Try(chosen(f"/dead-letters/{what}", b'{"everything": 1}')),
        Try(chosen(f"/dead-letters/{what}", b" " * (65 << 10))),
        Try(chosen(f"/dead-letters/{what}", b"{}", "Content-Type: text/plain")),
    ]
    for what in ("requeue", "discard")
}
QUARANTINE = {
    ("post", path): [
        Try(chosen(path, b"{}")),
        Try(chosen(path, b"{}"), with_token),
        Try(chosen(path, b"{}"), outbox_full),
        Try(chosen(path, b"{}", "Content-Type: text/plain")),
    ]
    for path in ("/quarantine/adopt", "/quarantine/discard")
}
TRIES: dict[tuple[str, str], list[Try]] = {
    ("post", POST): [
        Try(sent("POST", POST, body=BODY)),
        Try(sent("POST", POST, body=b"{")),
        Try(sent("POST", POST, body=b'{"event_type": "x"}')),
        Try(sent("POST", POST, "Content-Encoding: gzip", body=gzipped(b" " * (2 << 20)))),
        Try(sent("POST", POST, "Content-Type: multipart/form-data", body=BODY)),
        Try(sent("POST", POST, body=BODY), outbox_full),
    ],
    ("options", POST): [Try(sent("OPTIONS", POST, *PREFLIGHT)), Try(sent("OPTIONS", POST))],
    ("get", FIND): [
        Try(sent("GET", FIND)),
        Try(sent("GET", FIND), dead_lettered),
        Try(sent("GET", f"{POST}/unknown")),
    ],
    ("options", FIND): [Try(sent("OPTIONS", FIND, *PREFLIGHT))],
    ("get", "/relay.js"): [Try(sent("GET", "/relay.js")), Try(sent("GET", "/relay.js", CURRENT))],
    ("get", "/openapi.json"): [Try(sent("GET", "/openapi.json")), Try(sent("GET", "/openapi.json", CURRENT))],
    ("get", "/livez"): [Try(sent("GET", "/livez"))],
    ("get", "/readyz"): [Try(sent("GET", "/readyz")), Try(sent("GET", "/readyz"), unready)],
    ("get", "/metrics"): [
        Try(sent("GET", "/metrics")),
        Try(sent("GET", "/metrics", "Accept: application/openmetrics-text; version=1.0.0")),
    ],
    ("get", "/log"): [Try(sent("GET", "/log")), Try(sent("GET", "/log"), with_token)],
    ("get", "/configuration"): [Try(sent("GET", "/configuration")), Try(sent("GET", "/configuration"), with_token)],
    ("get", "/status.json"): [Try(sent("GET", "/status.json"))],
    ("get", "/event-types"): [Try(sent("GET", "/event-types"))],
    ("post", "/flush"): [
        Try(chosen("/flush", b"")),
        Try(chosen("/flush", b""), with_token),
        Try(chosen("/flush", b"", "Content-Type: text/plain")),
    ],
    ("get", "/dead-letters"): [
        Try(sent("GET", "/dead-letters")),
        Try(sent("GET", "/dead-letters?x=1")),
        Try(sent("GET", "/dead-letters"), with_token),
    ],
    ("get", "/dead-letters/{id}"): [
        Try(sent("GET", "/dead-letters/1")),
        Try(sent("GET", "/dead-letters/9")),
        Try(sent("GET", "/dead-letters/1"), with_token),
    ],
    **{("post", path): tries for path, tries in MOVES.items()},
    **QUARANTINE,
}


def tries_of(method: str, path: str) -> list[Try]:
    """Return the requests of an operation. HEAD uses those of GET; a file of the page needs one plain GET."""
    target = path.replace("{event_id}", EVENT_ID)
    found = TRIES.get(("get" if method == "head" else method, target), [Try(sent("GET", target))])
    if method != "head":
        return found
    return [Try(one.raw.replace(b"GET", b"HEAD", 1), one.before) for one in found]


async def listener_responses(method: str, target: str) -> AsyncIterator[Response]:
    """Yield the error responses of the listener to any path: 400, 403, 408, 431, 503."""
    line = f"{method.upper()} {target} HTTP/1.1\r\n".encode()
    async with Stage().served as served:
        yield await served.ask(line + b"Host: evil.example\r\n\r\n", to_head=method == "head")
        yield await served.ask(line + b"Host: localhost\r\nContent-Length: x\r\n\r\n")
        yield await served.ask(line + b"Host: localhost\r\nCookie: " + b"a" * 40_000 + b"\r\n\r\n")
    async with Stage(max_connections=1).served as served:
        client = await served.connect()
        client.send(line)
        yield await served.ask(line + b"Host: localhost\r\n\r\n")
        served.pass_time(20_000)
        yield await client.response()


def resolved(found: dict[str, Any]) -> dict[str, Any]:
    """Return the component that a reference names, or the object itself."""
    if "$ref" not in found:
        return found
    _, _, kind, name = found["$ref"].split("/")
    component: dict[str, Any] = COMPONENTS[kind][name]
    return component


def check_response(operation: dict[str, Any], response: Response, *, to_head: bool) -> None:
    """Require that the operation describes the response: headers, media type, body."""
    described = resolved(operation["responses"][str(response.status)])
    for name, header in described.get("headers", {}).items():
        schema = resolved(header)
        if schema.get("required") or (name == "Retry-After" and "events" in operation["tags"]):
            assert name.lower() in response.headers
    if to_head or "content" not in described:
        return
    media_types = {name.partition(";")[0]: shape for name, shape in described["content"].items()}
    media_type = response.headers["content-type"].partition(";")[0]
    shape = media_types.get(media_type) or media_types["*/*"]
    if media_type == "application/json":
        schema = {**shape["schema"], "components": COMPONENTS}
        Draft202012Validator(schema).validate(json.loads(response.body))


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
async def test_an_operation_returns_each_described_status_and_no_other(method: str, path: str) -> None:
    operation = DESCRIPTION["paths"][path][method]
    seen = set()
    for one in tries_of(method, path):
        stage = Stage()
        async with stage.served as served:
            one.before(stage)
            response = await served.ask(one.raw, to_head=method == "head")
        check_response(operation, response, to_head=method == "head")
        seen.add(str(response.status))
    async for response in listener_responses(method, path.replace("{event_id}", EVENT_ID)):
        check_response(operation, response, to_head=method == "head")
        seen.add(str(response.status))
    assert seen == set(operation["responses"])


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
async def test_other_methods_are_405_as_described(method: str, path: str, stage: Stage) -> None:
    response = await stage.served.ask(sent("PATCH", path.replace("{event_id}", EVENT_ID)))
    allowed = response.headers["allow"].split(", ")
    assert response.status == 405
    assert {one.upper() for one in DESCRIPTION["paths"][path] if one != "parameters"} == set(allowed)
    validator("Error").validate(json.loads(response.body))


async def test_any_other_path_is_404_as_described(stage: Stage) -> None:
    for path in ("/nothing", f"{EVENTS_PATH}x", "/relay.js.map"):
        response = await stage.served.ask(sent("GET", path))
        assert response.status == 404
        validator("Error").validate(json.loads(response.body))


def statuses_in_the_source() -> set[str]:
    """Return every status in the source of a response or a rejection."""
    found: set[int] = set()
    package = Path(openapi.__file__).parents[1]
    for file in (each for pattern in SOURCE_OF_RESPONSES for each in package.glob(pattern)):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                if name in ("error_response", "Response", "RequestRejected", "json_response", "bytes_response"):
                    found |= {each.value for each in ast.walk(node) if is_status(each)}
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_STATUS_OF_REFUSAL":
                found |= {each.value for each in ast.walk(node) if is_status(each)}
    return {str(status) for status in found}


def is_status(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and 200 <= node.value < 600


def test_every_status_in_the_source_is_described() -> None:
    described = {status for method, path in OPERATIONS for status in DESCRIPTION["paths"][path][method]["responses"]}
    assert statuses_in_the_source() - described == {"405"}  # Other methods are not operations.


# --- values of the code


def test_the_values_in_the_document_are_those_of_the_code() -> None:
    schemas, headers = COMPONENTS["schemas"], COMPONENTS["headers"]
    event, status = schemas["Event"], schemas["Status"]["properties"]
    assert event["properties"]["tenant_id"].items() >= {"minimum": MIN_TENANT_ID, "maximum": MAX_TENANT_ID}.items()
    assert MOMENT in event["properties"]["occurred_at"]["pattern"]
    assert set(re.sub(schemas["Text"]["pattern"], "", "".join(map(chr, range(sys.maxunicode + 1))))) == set(BLANKS)
    assert f"deeper than {MAX_DEPTH}." in event["description"]
    device_id = event["properties"]["source"]["properties"]["device_id"]
    assert f"At most {MAX_DEVICE_ID_CHARACTERS} " in device_id["description"]
    errors = schemas["InvalidEvents"]["properties"]["errors"]["description"]
    assert f"at most {MAX_QUOTED_CHARACTERS} " in errors and f"Beyond {MAX_ERROR_BYTES >> 10} KiB" in errors
    assert schemas["EventState"]["properties"]["state"]["enum"] == list(get_args(EventState))
    assert schemas["Reason"]["enum"] == list(DEAD_REASONS)
    assert schemas["DeadLetterId"]["maximum"] == MAX_ID
    assert status["upstreams"]["items"]["properties"]["state"]["enum"] == list(UPSTREAM_STATES)
    assert list(status["ledger"]["properties"]) == list(Ledger._fields)
    assert headers["Retry-After"]["schema"]["minimum"] == RETRY_AFTER_S
    assert headers["Access-Control-Max-Age"]["schema"]["const"] == CORS_MAX_AGE_S
    assert CORS_HEADERS in headers["Access-Control-Allow-Headers"]["description"]
    assert headers["Relay-Durability"]["schema"]["enum"] == [VALUES.durability]
    too_large = COMPONENTS["responses"]["AppsTooLarge"]["description"]
    assert f"{VALUES.max_body_bytes} bytes" in too_large and f"than {VALUES.max_event_bytes}." in too_large


def test_the_parameters_of_the_list_of_dead_letters_have_the_limits_of_the_code() -> None:
    parameters = {one["name"]: one["schema"] for one in DESCRIPTION["paths"]["/dead-letters"]["get"]["parameters"]}
    assert parameters["search"]["maxLength"] == MAX_SEARCH_CHARS
    assert parameters["limit"] == {"type": "integer", "minimum": 1, "maximum": MAX_SHOWN, "default": MAX_SHOWN}
    assert parameters["after"]["maximum"] == MAX_ID
    assert COMPONENTS["schemas"]["DeadLetters"]["properties"]["dead_letters"]["maxItems"] == MAX_SHOWN


def test_a_choice_of_dead_letters_has_the_fields_that_the_relay_decodes() -> None:
    decoded = msgspec.json.schema_components([DeadLetterChoice])[1]["DeadLetterChoice"]
    decoded["properties"]["reason"] = {"enum": [*DEAD_REASONS, None]}
    assert {**COMPONENTS["schemas"]["DeadLetterChoice"], **decoded} == COMPONENTS["schemas"]["DeadLetterChoice"]


def test_the_guarded_routes_require_the_token() -> None:
    for path, route in Stage().ops.routes.items():
        assert ("security" in DESCRIPTION["paths"][path][route.method.lower()]) == route.guarded, path


# --- serving


async def test_the_description_is_served_and_its_path_is_guarded(stage: Stage) -> None:
    response = await stage.served.ask(sent("GET", "/openapi.json"))
    assert response.json == json.loads(json.dumps(DESCRIPTION))
    assert (await stage.served.ask(request("GET /openapi.json HTTP/1.1", host="evil.example"))).status == 403
