"""Rejected configurations: each fault has its source, its key and the reason, and contains no secret."""

import os
from pathlib import Path

import pytest
from relay.config import ConfigError, load
from relay.config.keys import KEYS
from relay.config.values import Wrong
from relay.event.reader import EventDefaults, Reader
from relay.runtime.secret import MASK, Secret

from tests.unit.config.harness import CANARY, ENOUGH, URL


def faults(config_file: Path | None, environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(config_file, environ)
    return [str(fault) for fault in caught.value.faults]


def only_fault(environ: dict[str, str], config_file: Path | None = None) -> str:
    (fault,) = faults(config_file, ENOUGH | environ)
    return fault


def test_all_faults_are_reported_with_source_key_value_and_allowed_values(config):
    file = config('[upstream]\nmax_in_flight = 0\n[batch]\nlinger = "5 s"\n[htpp]\nlisten = "x"\n')

    fault_texts = faults(file, {"RELAY__UDP__LISTEN": "8125"})

    assert fault_texts == [
        f"file {file}: htpp.listen: is not a known key; did you mean http.listen?",
        f"file {file}: upstream.max_in_flight = 0: is out of range; allowed: 1 to 256",
        f'file {file}: batch.linger = "5 s": is not a whole number with one of the units ms, s, m, h, d, '
        'like "5s"; allowed: "0s" to "10m"',
        'environment RELAY__UDP__LISTEN: udp.listen = "8125": is not host:port (0.0.0.0 and [::] mean every '
        'interface); allowed: "host:port", "[IPv6]:port", a list of up to 64 of these, or "" for off',
        "upstream.url: is required; set it in the configuration file or as RELAY__UPSTREAM__URL",
        "upstream.api_key: is required; set it, or upstream.api_key_file, in the configuration file, as "
        "RELAY__UPSTREAM__API_KEY or RELAY__UPSTREAM__API_KEY_FILE, or as systemd credential upstream.api_key",
    ]


def test_faults_of_the_defaults_file_name_it(config, tmp_path):
    defaults = tmp_path / "defaults.toml"
    defaults.write_text('[batch]\nlinger = "5 s"\nmax_event = 7\n[upstream]\napi_key_file = "absent"\n')
    environ = ENOUGH | {"RELAY_DEFAULTS_FILE": str(defaults)}

    assert faults(config('[batch]\nlinger = "2s"\n'), environ) == [
        f"defaults file {defaults}: batch.max_event: is not a known key; did you mean batch.max_events?",
        f"file {tmp_path / 'absent'} named by upstream.api_key_file: upstream.api_key: cannot be read: "
        "No such file or directory",
        f'defaults file {defaults}: batch.linger = "5 s": is not a whole number with one of the units ms, s, m, h, d, '
        'like "5s"; allowed: "0s" to "10m"',
    ]


@pytest.mark.parametrize("content", [None, "[batch\n"])
def test_an_unreadable_defaults_file_is_the_only_fault(content, tmp_path):
    defaults = tmp_path / "defaults.toml"
    if content:
        defaults.write_text(content)
    (fault,) = faults(None, {"RELAY_DEFAULTS_FILE": str(defaults)})
    assert fault.startswith(f"defaults file {defaults}: ")


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [
        ("RELAY__UPSTREAM__API_KYE", "RELAY__UPSTREAM__API_KEY"),
        ("RELAY__HTTP__LINGER", "RELAY__BATCH__LINGER"),
        ("RELAY__UPSTREAM__TENANTS__2__APIKEY", "RELAY__UPSTREAM__TENANTS__2__API_KEY"),
        ("RELAY__batch__linger", "RELAY__BATCH__LINGER"),
        ("RELAY__UPSTREAM__TENANTS__02__URL", "RELAY__UPSTREAM__TENANTS__<ID>__URL"),
    ],
)
def test_mistyped_variable_is_rejected_with_a_suggestion_and_without_its_value(variable, suggestion):
    """The value may be a secret."""
    fault_text = only_fault({variable: "CANARY-2"})

    assert fault_text.startswith(f"environment {variable}: ")
    assert "is not a known key" in fault_text
    assert "CANARY" not in fault_text
    assert fault_text.endswith(f"; did you mean {suggestion}?")


def test_overridden_value_is_checked(config):
    file = config("[batch]\nmax_events = 0\n")

    assert "batch.max_events = 0" in only_fault({"RELAY__BATCH__MAX_EVENTS": "5"}, file)


def test_secret_and_its_file_in_one_configuration_file_are_rejected(config):
    file = config('[upstream]\napi_key = "CANARY-2"\napi_key_file = "/nowhere"\n')

    fault_texts = faults(file, ENOUGH)

    assert (
        f"file {file}: upstream.api_key: is set twice: set either upstream.api_key or upstream.api_key_file"
        in fault_texts
    )
    assert "CANARY" not in "".join(fault_texts)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[upstream\n", "is not TOML: "),
        ("a = 1\na = 2\n", "is not TOML: "),
        ("a = " + "[" * 5_000, "is not TOML: "),
        ("[http]\nlisten = '\udcff'\n", "is neither UTF-8 nor UTF-16"),
        ("#" * (1 << 20) + "\n", "is larger than 1048576 bytes"),
    ],
)
def test_file_that_is_not_a_configuration_is_rejected(tmp_path, content, problem):
    file = tmp_path / "config.toml"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))

    assert only_fault({}, file).startswith(f"file {file}: {problem}")


def test_missing_configuration_file_is_rejected(tmp_path):
    assert only_fault({}, tmp_path / "none.toml").endswith("none.toml: cannot be read: No such file or directory")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is an empty file"),
        (b"\n", "is an empty file"),
        (b" \t\n", "is an empty file"),
        (b"\xff", "is neither UTF-8 nor UTF-16"),
        (b"k" * 70_000, "is larger than"),
    ],
)
def test_file_without_a_secret_is_rejected(tmp_path, content, problem):
    (tmp_path / "key").write_bytes(content)

    assert problem in only_fault({"RELAY__OPS__TOKEN_FILE": str(tmp_path / "key")})


def test_unreadable_key_file_is_rejected_without_a_fallback(tmp_path):
    fault_text = only_fault({"RELAY__UPSTREAM__API_KEY_FILE": str(tmp_path / "gone")})

    assert fault_text == (
        f"file {tmp_path / 'gone'} named by RELAY__UPSTREAM__API_KEY_FILE: upstream.api_key: "
        "cannot be read: No such file or directory"
    )


@pytest.mark.parametrize(
    "key",
    [
        "Canary" * 50,  # longer than a file's name may be
        "Canary7f3a/canary/Canary",
        "Canary7f3a.Canary7f3a.Canary7f3a.Canary7f3a",
        "'Canary7f3aCanary7f3a'",
        "Canary7f3aCanary7f3a" + "\x7f",
    ],
)
def test_a_key_in_place_of_its_file_is_not_shown(key, config):
    file = config(f'[ops]\ntoken_file = "{key.replace(chr(127), "")}"\n')
    fault_texts = faults(file, {"RELAY__UPSTREAM__URL": URL, "RELAY__UPSTREAM__API_KEY_FILE": key})

    assert [text for text in fault_texts if "canary" in text.lower()] == []
    assert any(f"{MASK} named by ops.token_file" in text for text in fault_texts) or key.startswith("'")
    assert any(MASK in text and "API_KEY_FILE" in text for text in fault_texts)


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "relay" / "upstream-key.2026.txt"

    assert f"file {path} named by" in only_fault({"RELAY__UPSTREAM__API_KEY_FILE": str(path)})


@pytest.mark.parametrize(
    "key", ["", "two words", f"{CANARY}\r\nX-Evil: 1", "\u0561", "k" * 4_097, f"{CANARY}\x7f", f"{CANARY}\u00a0"]
)
def test_key_that_is_invalid_in_a_header_is_rejected_and_not_shown(key):
    """A line break in a key could begin another header."""
    fault_text = only_fault({"RELAY__UPSTREAM__API_KEY": key})

    assert fault_text.startswith(f"environment RELAY__UPSTREAM__API_KEY: upstream.api_key = {MASK}: ")
    assert CANARY not in fault_text


@pytest.mark.parametrize(
    "url",
    [
        "",
        "upstream.example/v1",
        "file:///etc/passwd",
        "ftp://upstream.example/",
        "https://",
        "https:///v1/events",
        "https://user:CANARY@upstream.example/",
        "https://user@upstream.example/",
        "https://@upstream.example/",
        "https://upstream.example/#",
        "https://upstream.example/v1#x",
        "https://upstream.example:0/",
        "https://upstream.example:65536/",
        "https://upstream.example:port/",
        "https://upstream.example/a b",
        "https://upstream.example/\n",
        " https://upstream.example/",
        "https://upstream.example\\@evil.example/",
        "https://upstream..example/",
        "https://b\u00fccher.example/",
        "https://[::1/",
        "https://[1.2.3.4]x/",
        "https://1.2.3/",
        "https://127.1/",
        "https://0x7f000001/",
        "https://" + "a" * 2_048 + "/",
        "http://upstream.example/",
        "http://169.254.169.254/latest",
        "http://127.0.0.1.evil.example/",
        "http://localhost.evil.example/",
        "http://0.0.0.0/",
    ],
)
def test_unsafe_upstream_url_is_rejected(url):
    fault_text = only_fault({"RELAY__UPSTREAM__URL": url})

    assert "upstream.url" in fault_text
    assert "CANARY" not in fault_text


@pytest.mark.parametrize(
    "url",
    [
        "https://upstream.example/",
        "https://upstream.example:8443/v1/events?x=1",
        "https://10.0.0.7/v1",
        "https://[2001:db8::1]:8443/",
        "http://localhost:9000/v1/events",
        "http://127.0.0.1/v1",
        "http://127.8.9.1/v1",
        "http://[::1]:9000/v1",
    ],
)
def test_url_with_tls_or_of_this_machine_is_accepted_unchanged(url):
    assert load(None, ENOUGH | {"RELAY__UPSTREAM__URL": url}).upstream.default.url == url


def test_plain_http_to_another_machine_requires_allow_http_for_tenants_too():
    environ = {"RELAY__UPSTREAM__TENANTS__2__URL": "http://upstream.example/"}

    assert "upstream.tenants.2.url" in only_fault(environ)
    allowed = load(None, ENOUGH | environ | {"RELAY__UPSTREAM__ALLOW_HTTP": "true"})
    assert allowed.upstream.endpoint(2).url == "http://upstream.example/"


@pytest.mark.parametrize("listen", ["127.0.0.1:8080", "localhost:0", "[::1]:8080", "[::]:1", "0.0.0.0:65535", ""])
def test_valid_listen_address_is_accepted(listen):
    assert load(None, ENOUGH | {"RELAY__HTTP__LISTEN": listen}).http.listen == listen


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("127.0.0.1:1,[::1]:1", ("127.0.0.1:1", "[::1]:1")),
        ("[::1]:1, 127.0.0.1:1 ,", ("[::1]:1", "127.0.0.1:1")),
        ('["[::1]:1", "localhost:2"]', ("[::1]:1", "localhost:2")),
        ("[]", ""),
    ],
)
def test_list_of_listen_addresses_is_accepted(text, listen):
    assert load(None, ENOUGH | {"RELAY__UDP__LISTEN": text}).udp.listen == listen


@pytest.mark.parametrize(
    "text", ["127.0.0.1:1,8080", '["127.0.0.1:1", 8080]', '["127.0.0.1:1", ""]', ",".join(["[::1]:1"] * 65)]
)
def test_fault_names_the_wrong_address_of_a_list(text):
    assert "item 1: is" in only_fault({"RELAY__HTTP__LISTEN": text}) or "too many" in only_fault(
        {"RELAY__HTTP__LISTEN": text}
    )


@pytest.mark.parametrize("ops", ["localhost:8080", "[::ffff:127.0.0.1]:8080", "127.0.0.1:1,[0:0::1]:8080"])
def test_common_address_of_ops_and_http_is_rejected(ops):
    assert "has an address of http.listen" in only_fault({"RELAY__OPS__LISTEN": ops})


@pytest.mark.parametrize(
    "listen", ["8080", ":8080", "127.0.0.1", "::1:8080", "[::1]", "a b:1", "127.0.0.1:65536", "1.2.3:1"]
)
def test_invalid_listen_address_is_rejected(listen):
    assert "http.listen" in only_fault({"RELAY__HTTP__LISTEN": listen})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("http.allowed_hosts", '["a b"]'),
        ("http.allowed_hosts", '"a.local"'),
        ("http.allowed_hosts", "[" + '"a",' * 65 + "]"),
        ("http.allowed_origins", '["*"]'),
        ("http.allowed_origins", '["https://a.example/"]'),
        ("http.allowed_origins", '["https://A.example"]'),
        ("http.allowed_origins", '["https://."]'),
        ("http.allowed_origins", '["https://a.example:65536"]'),
        ("http.allowed_origins", '["http://"]'),
        ("http.allowed_origins", '["app://./page"]'),
        ("udp.allowed_networks", '["192.168.1.7/24"]'),
        ("udp.allowed_networks", "[10]"),
        ("udp.ack", '"true"'),
        ("upstream.max_in_flight", "true"),
        ("upstream.max_in_flight", "8.0"),
        ("upstream.max_in_flight", '"8"'),
        ("upstream.compression", '"br"'),
        ("upstream.ca_file", '"/nowhere/ca.pem"'),
        ("defaults.platform", '"TV"'),
        ("defaults.device_id", '"a\\u0000b"'),
        ("outbox.path", '""'),
        ("log.level", "10"),
        ("batch.linger", "5"),
        ("batch.linger", "{s = 5}"),
        ("rate.window", "1979-05-27"),
    ],
)
def test_value_of_another_type_is_rejected(config, key, value):
    section, _, leaf = key.partition(".")

    assert key in only_fault({}, config(f"[{section}]\n{leaf} = {value}\n"))


@pytest.mark.parametrize(
    ("leaf", "value", "problem"),
    [
        ("TENANT_ID", "0", 'tenant_id = 0: is out of range; allowed: 1 to 9223372036854775807, or ""'),
        ("DEVICE_ID", " ", 'is blank; allowed: text that is not blank, up to 255 characters, or ""'),
        ("DEVICE_ID", "x" * 256, 'is too long; allowed: text that is not blank, up to 255 characters, or ""'),
    ],
)
def test_default_that_is_invalid_in_an_event_is_rejected(leaf, value, problem):
    assert only_fault({f"RELAY__DEFAULTS__{leaf}": value}).endswith(problem)


@pytest.mark.parametrize("key", [key for key in KEYS if key.section == "defaults"], ids=lambda key: key.name)
@pytest.mark.parametrize(
    "value",
    [0, 1, 2**63 - 1, 2**63, True, "", " ", "   ", "tv", "TV", "x" * 255, "x" * 256, "x" * 257, " x ", "\0", '"\\/'],
    ids=lambda value: ascii(value)[:8],
)
def test_event_with_an_accepted_default_is_valid(key, value):
    """Otherwise the upstream would reject every event that uses the default."""
    default = key.kind.read(value)
    if isinstance(default, Wrong) or default in (None, ""):
        return
    defaults = {"tenant_id": 1, "platform": "tv", "device_id": "box"} | {key.field: default}

    (event,) = reader(EventDefaults(**defaults)).read(b'{"event_type": "x"}', "json")

    (again,) = reader(EventDefaults()).read(event.body, "json")
    assert again._replace(received_crc=0) == event._replace(
        has_inserted_time=False, has_generated_id=False, received_crc=0
    )


def reader(defaults: EventDefaults) -> Reader:
    return Reader(
        defaults, 64 << 10, lambda: "550e8400-e29b-41d4-a716-446655440000", lambda: "2026-01-01T00:00:00.000Z"
    )


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        (
            {"RELAY__HTTP__MAX_EVENT": "2MiB", "RELAY__BATCH__MAX_BYTES": "4MiB"},
            'more than http.max_body = "1MiB" (default)',
        ),
        ({"RELAY__BATCH__MAX_BYTES": "32KiB"}, "http.max_event"),
        ({"RELAY__OUTBOX__MAX_SIZE": "1MiB", "RELAY__HTTP__MAX_BODY": "2MiB"}, "outbox.max_size"),
        ({"RELAY__RETRY__INITIAL": "10m"}, "retry.max"),
        ({"RELAY__OUTBOX__MAX_AGE": "2s"}, "batch.linger"),
        ({"RELAY__OPS__LISTEN": "127.0.0.1:8080"}, "has an address of http.listen"),
        ({"RELAY__UPSTREAM__CLIENT_KEY_FILE": __file__}, "upstream.client_cert_file"),
    ],
)
def test_contradicting_values_are_rejected(environ, problem):
    assert problem in only_fault(environ)


def test_allowed_tenants_must_contain_the_configured_tenants(config):
    file = config('[upstream]\nallowed_tenants = [1, 4]\n[upstream.tenants.4]\napi_key = "four"\n')
    assert load(file, ENOUGH).upstream.allowed_tenants == (1, 4)

    environ = {f"RELAY__UPSTREAM__TENANTS__{tenant}__API_KEY": CANARY for tenant in (3, 2)}

    assert only_fault(environ, file) == (
        f"file {file}: upstream.allowed_tenants = [1, 4]: lacks tenants of upstream.tenants: add 2, 3, or remove "
        "their keys"
    )


def test_allowed_tenants_must_contain_the_default_tenant(config):
    file = config("[upstream]\nallowed_tenants = [1, 4]\n[defaults]\ntenant_id = 4\n")
    assert load(file, ENOUGH).defaults.tenant_id == 4

    assert only_fault({"RELAY__DEFAULTS__TENANT_ID": "3"}, file) == (
        "environment RELAY__DEFAULTS__TENANT_ID: defaults.tenant_id = 3: is not in upstream.allowed_tenants = "
        f"[1, 4] (file {file}): add it there"
    )


@pytest.mark.parametrize(
    "text", ["one", "1, x", "0", "-1", "9223372036854775808", "true", "1.0", '["1"]', ", ".join(["1"] * 65)]
)
def test_a_list_of_allowed_tenants_with_other_values_is_rejected(text):
    assert "upstream.allowed_tenants" in only_fault({"RELAY__UPSTREAM__ALLOWED_TENANTS": text})


def test_value_in_a_fault_is_escaped_and_cut():
    fault_text = only_fault({"RELAY__LOG__LEVEL": "a\nb\x1b[31m" + "c" * 1_000})

    assert fault_text.isprintable()
    assert len(fault_text) < 400


def test_number_of_tenants_is_bounded():
    environ = {f"RELAY__UPSTREAM__TENANTS__{tenant}__API_KEY": "k" for tenant in range(65)}

    assert "has 65 tenants; at most 64 are allowed" in only_fault(environ)


def test_only_secrets_can_be_set_by_a_file_variable(tmp_path):
    (tmp_path / "url").write_text("https://other.example/")

    assert "is not a known key" in only_fault({"RELAY__UPSTREAM__URL_FILE": str(tmp_path / "url")})


def test_endless_file_is_rejected():
    if not os.path.exists("/dev/zero"):
        pytest.skip("no /dev/zero here")

    assert "is larger than" in only_fault({"RELAY__UPSTREAM__API_KEY_FILE": "/dev/zero"})


# -- typing mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (f'"{CANARY}"', "is in quotes"),
        (f"'{CANARY}'", "is in quotes"),
        (f"API_KEY={CANARY}", "has the form NAME=value"),
        (f"export API_KEY={CANARY}", "has the form NAME=value"),
        (f"X-Events-Key: {CANARY}", "has the form of a header line"),
        ("${EVENTS_KEY}", "does not expand variables"),
        ("$EVENTS_KEY", "does not expand variables"),
        ("THE-KEY-OF-THE-BACKEND-TEAM", "is a placeholder"),
        ("<your key>", "is a placeholder"),
        ("your-api-key", "is a placeholder"),
        ("changeme", "is a placeholder"),
    ],
)
def test_mistyped_key_is_rejected_with_the_mistake(tmp_path, key, problem):
    (tmp_path / "key").write_text(key + "\n")
    for environ in ({"RELAY__UPSTREAM__API_KEY": key}, {"RELAY__UPSTREAM__API_KEY_FILE": str(tmp_path / "key")}):
        fault = only_fault(environ)
        assert problem in fault
        assert CANARY not in fault


@pytest.mark.parametrize("key", ["bar-Key_123/abc+=", "QUJDREVG==", "a$b$C", "k:v", "Xx", "MYKEY", "todo-list-7"])
def test_unusual_key_is_accepted(key):
    assert load(None, ENOUGH | {"RELAY__UPSTREAM__API_KEY": key}).upstream.default.api_key == Secret(key)


@pytest.mark.parametrize(
    "content",
    [
        b"bar-Key_123",
        b"bar-Key_123\n\n",
        b"\xef\xbb\xbfbar-Key_123\r\n",
        "bar-Key_123\r\n".encode("utf-16"),
        b"\n bar-Key_123 \t\n",
        "bar-Key_123\u00a0\n".encode(),
    ],
)
def test_whitespace_and_byte_order_mark_around_a_key_are_removed(tmp_path, content):
    (tmp_path / "key").write_bytes(content)

    settings = load(None, {"RELAY__UPSTREAM__URL": URL, "RELAY__UPSTREAM__API_KEY_FILE": str(tmp_path / "key")})

    assert settings.upstream.default.api_key == Secret("bar-Key_123")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://upstream.example", "has no path"),
        ("https://upstream.example:8443", "has no path"),
        ("https://${HOST}/v1/events", "does not expand variables"),
        (f'"{URL}"', "is in quotes"),
    ],
)
def test_mistyped_url_is_rejected_with_the_mistake(url, problem):
    assert problem in only_fault({"RELAY__UPSTREAM__URL": url})


def test_proxy_needs_no_path():
    assert load(None, ENOUGH | {"RELAY__UPSTREAM__PROXY": "http://proxy:3128"}).upstream.proxy == "http://proxy:3128"


def test_path_with_a_variable_is_rejected(config):
    assert "does not expand variables" in only_fault({}, config('[outbox]\npath = "${HOME}/outbox.db"\n'))


def test_configuration_without_any_listener_is_rejected():
    fault = only_fault({"RELAY__HTTP__LISTEN": "", "RELAY__UDP__LISTEN": ""})

    assert "http.listen" in fault
    assert "the relay cannot receive events" in fault


def test_syntax_error_is_the_only_fault_of_a_file(config):
    """The file may contain URL and key, so they must not be reported as missing."""
    (fault,) = faults(config("[upstream\n"), {})

    assert "is not TOML" in fault


def test_outbox_at_the_path_of_earlier_versions_is_reported_with_both_paths(config, tmp_path, monkeypatch):
    earlier = tmp_path / "elsewhere" / "data" / "outbox.db"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"")
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = config('[outbox]\npath = "data/outbox.db"\n')

    fault = only_fault({}, file)

    assert str(earlier) in fault
    assert str(tmp_path / "data" / "outbox.db") in fault
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "outbox.db").write_bytes(b"")
    assert load(file, ENOUGH).outbox.path == tmp_path / "data" / "outbox.db"


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://kiosk.example:443", "https://kiosk.example"),
        ("http://kiosk.example:80", "http://kiosk.example"),
        ("http://kiosk.example:443", "http://kiosk.example:443"),
        ("https://[::1]:0443", "https://[::1]"),
        ("app://.", "app://."),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ("file://", "file://"),
        ("null", "null"),
    ],
)
def test_origins_are_normalized_as_browsers_send_them(text, origin):
    assert load(None, ENOUGH | {"RELAY__HTTP__ALLOWED_ORIGINS": text}).http.allowed_origins == (origin,)


@pytest.mark.parametrize(
    "url",
    ["http://events.example.com/v1/events?key=canary-1a2b3c4d", "ftp://events.example.com/?key=canary-1a2b3c4d"],
    ids=["plain http", "another scheme"],
)
def test_a_rejected_url_is_quoted_without_the_secrets_in_its_query(url: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        load(None, {"RELAY__UPSTREAM__URL": url, "RELAY__UPSTREAM__API_KEY": "canary-key-1"})
    assert "events.example.com" in str(rejected.value)
    assert "canary" not in str(rejected.value)


def test_a_store_that_is_not_offered_is_rejected():
    assert only_fault({"RELAY__OUTBOX__KIND": "mysql"}).endswith(
        'outbox.kind = "mysql": is not an allowed word; allowed: "sqlite", "postgres"'
    )


def test_a_shared_outbox_requires_a_url():
    assert only_fault({"RELAY__OUTBOX__KIND": "postgres"}) == (
        'outbox.url: is required with outbox.kind = "postgres"; set it, or outbox.url_file'
    )


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://relay:canary-1a2b@host/relay", "is not a URL that begins with postgresql:// and a host"),
        ("host=db password=canary-1a2b", "is too long, or has spaces or other characters than printable ASCII"),
        ("postgresql:///canary-1a2b", "is not a URL that begins with postgresql:// and a host"),
    ],
)
def test_a_wrong_url_of_a_database_is_rejected_without_its_password(url, why):
    fault = only_fault({"RELAY__OUTBOX__KIND": "postgres", "RELAY__OUTBOX__URL": url})

    assert why in fault
    assert "canary" not in fault


@pytest.mark.parametrize("schema", ["", "Relay", "1relay", 'relay"; DROP', "a" * 64])
def test_a_schema_that_needs_quotes_is_rejected(schema):
    assert "is not a name" in only_fault({"RELAY__OUTBOX__SCHEMA": schema})
