"""Value sources, description and comparison of the configuration."""

import os
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from relay.config import (
    ConfigError,
    changes,
    describe,
    diff,
    find_config_file,
    load,
    load_for_client,
    needs_restart,
    secrets,
)
from relay.config.keys import KEYS
from relay.config.load import CONFIG_FILES
from relay.runtime.secret import MASK, Secret

from tests.unit.config.harness import CANARY, ENOUGH, URL


def test_configuration_in_an_inaccessible_directory_is_ignored(tmp_path, monkeypatch):
    """This happens with `sudo -u relay relay status` in root's home directory."""
    (tmp_path / "config.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    us = os.geteuid()
    tmp_path.chmod(0)
    os.seteuid(us or 65_534)
    try:
        found = find_config_file(None, {})
    finally:
        os.seteuid(us)
        tmp_path.chmod(0o700)
    assert found is None
    assert find_config_file(None, {}) == Path("config.toml")


# -- value sources ---------------------------------------------------------------------------------------


def test_environment_without_a_file_is_sufficient():
    settings = load(None, ENOUGH)

    assert settings.upstream.default.url == URL
    assert settings.upstream.default.api_key == Secret(CANARY)
    assert settings.batch.linger_ms == 5_000


def test_each_source_overrides_the_weaker_ones(config, tmp_path):
    """Default < defaults file < file < environment < file named by the environment < credential."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (tmp_path / "key").write_text("of-the-named-file\n")
    defaults = tmp_path / "defaults.toml"
    defaults.write_text(f'[upstream]\nurl = "{URL}"\napi_key = "of-the-defaults-file"\n')
    environ = {"CREDENTIALS_DIRECTORY": str(credentials), "RELAY_DEFAULTS_FILE": str(defaults)}
    file = config("")

    def key_and_source() -> tuple[str, str]:
        settings = load(file, environ)
        return settings.upstream.default.api_key.reveal(), settings.sources["upstream.api_key"]

    assert key_and_source() == ("of-the-defaults-file", f"defaults file {defaults}")
    file.write_text('[upstream]\napi_key = "of-the-file"\n')
    assert key_and_source() == ("of-the-file", f"file {file}")
    environ["RELAY__UPSTREAM__API_KEY"] = "of-the-environment"
    assert key_and_source() == ("of-the-environment", "environment RELAY__UPSTREAM__API_KEY")
    environ["RELAY__UPSTREAM__API_KEY_FILE"] = str(tmp_path / "key")
    named = f"file {tmp_path / 'key'} named by RELAY__UPSTREAM__API_KEY_FILE"
    assert key_and_source() == ("of-the-named-file", named)
    (credentials / "upstream.api_key").write_text("of-the-credential")
    assert key_and_source() == ("of-the-credential", "credential upstream.api_key")


def test_paths_in_the_defaults_file_are_relative_to_it(config, tmp_path):
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "key").write_text("of-the-image\n")
    defaults = tmp_path / "image" / "defaults.toml"
    defaults.write_text(f'[upstream]\nurl = "{URL}"\napi_key_file = "key"\n[outbox]\npath = "state/outbox.db"\n')
    environ = {"RELAY_DEFAULTS_FILE": str(defaults)}

    settings = load(None, environ)

    assert settings.outbox.path == tmp_path / "image" / "state" / "outbox.db"
    assert settings.secret_files == {"upstream.api_key": tmp_path / "image" / "key"}
    assert settings.sources["upstream.api_key"] == f"file {tmp_path / 'image' / 'key'} named by upstream.api_key_file"
    # A stronger secret replaces the file of a weaker one.
    settings = load(config('[upstream]\napi_key = "of-the-file"\n'), environ)
    assert (settings.upstream.default.api_key, settings.secret_files) == (Secret("of-the-file"), {})


def test_an_empty_name_of_the_defaults_file_means_none():
    assert load(None, ENOUGH | {"RELAY_DEFAULTS_FILE": ""}).batch.linger_ms == 5_000


def test_secret_file_overrides_the_value_in_any_order_of_variables(tmp_path):
    (tmp_path / "key").write_text("of-the-file")
    variables = {**ENOUGH, "RELAY__UPSTREAM__API_KEY_FILE": str(tmp_path / "key")}

    for environ in (variables, dict(reversed(variables.items()))):
        assert load(None, environ).upstream.default.api_key == Secret("of-the-file")


def test_every_key_has_a_value_source(config):
    file = config('[batch]\nlinger = "2s"\n')

    settings = load(file, ENOUGH | {"RELAY__UPSTREAM__TENANTS__2__API_KEY": "two"})

    assert set(describe(settings)) <= set(settings.sources)
    assert settings.sources["batch.linger"] == f"file {file}"
    assert settings.sources["batch.max_events"] == "default"
    assert settings.sources["upstream.tenants.2.api_key"] == "environment RELAY__UPSTREAM__TENANTS__2__API_KEY"
    assert settings.sources["upstream.tenants.2.url"] == "upstream.url"


def test_line_break_at_the_end_of_a_key_file_is_removed(config, tmp_path):
    (tmp_path / "key").write_bytes(b"of-the-file\r\n")
    file = config(f'[upstream]\nurl = "{URL}"\napi_key_file = "{tmp_path / "key"}"\n')

    settings = load(file, {})

    assert settings.upstream.default.api_key == Secret("of-the-file")
    assert settings.secret_files == {"upstream.api_key": tmp_path / "key"}
    assert settings.sources["upstream.api_key"] == f"file {tmp_path / 'key'} named by upstream.api_key_file"


def test_secret_files_are_the_files_of_the_effective_secrets(tmp_path):
    (tmp_path / "one").write_text("one")
    (tmp_path / "two").write_text("two")
    environ = {
        "RELAY__UPSTREAM__URL": URL,
        "RELAY__UPSTREAM__API_KEY_FILE": str(tmp_path / "one"),
        "RELAY__UPSTREAM__TENANTS__2__API_KEY_FILE": str(tmp_path / "two"),
    }

    assert load(None, environ).secret_files == {
        "upstream.api_key": tmp_path / "one",
        "upstream.tenants.2.api_key": tmp_path / "two",
    }

    (tmp_path / "upstream.api_key").write_text("credential")
    files = load(None, environ | {"CREDENTIALS_DIRECTORY": str(tmp_path)}).secret_files
    assert set(files.values()) == {tmp_path / "upstream.api_key", tmp_path / "two"}


def test_credentials_without_the_name_of_a_secret_are_ignored(tmp_path):
    (tmp_path / "client.pem").write_text("")
    (tmp_path / "batch.linger").write_text("1s")

    assert load(None, ENOUGH | {"CREDENTIALS_DIRECTORY": str(tmp_path)}).batch.linger_ms == 5_000


def test_tenant_uses_the_default_endpoint_for_missing_values(config):
    file = config('[upstream.tenants.1]\nurl = "https://other.example/"\n[upstream.tenants.2]\napi_key = "two"\n')

    upstream = load(file, ENOUGH).upstream

    assert (upstream.endpoint(1).url, upstream.endpoint(1).api_key) == ("https://other.example/", Secret(CANARY))
    assert (upstream.endpoint(2).url, upstream.endpoint(2).api_key) == (URL, Secret("two"))
    assert upstream.endpoint(3) is upstream.default


def test_default_path_of_the_outbox_is_in_systemds_state_directory():
    environ = ENOUGH | {"STATE_DIRECTORY": "/var/lib/event-relay:/var/lib/other"}

    settings = load(None, environ)

    assert settings.outbox.path == Path("/var/lib/event-relay/outbox.db")
    assert settings.sources["outbox.path"] == "environment STATE_DIRECTORY"
    assert load(None, environ | {"RELAY__OUTBOX__PATH": "x.db"}).outbox.path == Path("x.db")
    assert load(None, ENOUGH).outbox.path == Path("data/outbox.db")


@pytest.mark.parametrize("text", ["a.local, b.local:80", '["a.local", "b.local:80"]'])
def test_list_in_the_environment_is_comma_separated_or_a_toml_array(text):
    assert load(None, ENOUGH | {"RELAY__HTTP__ALLOWED_HOSTS": text}).http.allowed_hosts == ("a.local", "b.local:80")


@pytest.mark.parametrize(("text", "tenants"), [("1, 2", (1, 2)), ("[1, 2]", (1, 2)), ("7", (7,)), ("", ()), ("[]", ())])
def test_numbers_of_a_list_in_the_environment_are_converted(text, tenants):
    assert load(None, ENOUGH | {"RELAY__UPSTREAM__ALLOWED_TENANTS": text}).upstream.allowed_tenants == tenants


def test_environment_values_are_converted_to_the_type_of_their_key():
    environ = {
        "RELAY__UDP__ACK": "true",
        "RELAY__UDP__LISTEN": "",
        "RELAY__BATCH__MAX_EVENTS": "7",
        "RELAY__OUTBOX__MAX_SIZE": "2GiB",
        "RELAY__DEFAULTS__TENANT_ID": "2",
        "RELAY__OPS__TOKEN": "token",
    }

    settings = load(None, ENOUGH | environ)

    assert (settings.udp.ack, settings.udp.listen) == (True, "")
    assert (settings.batch.max_events, settings.outbox.max_size_bytes) == (7, 2 << 30)
    assert (settings.defaults.tenant_id, settings.ops.token) == (2, Secret("token"))


def test_variables_without_the_prefix_are_ignored():
    """Container orchestrators set variables such as RELAY_PORT for a service with the name relay."""
    assert load(None, ENOUGH | {"RELAY_PORT": "tcp://10.0.0.1:80", "PATH": "/bin"}) == load(None, ENOUGH)


def test_places_of_the_configuration_file(tmp_path, monkeypatch):
    """tests/unit/cli/test_config_file.py shows the order for each command."""
    monkeypatch.chdir(tmp_path)
    etc = [Path("/etc/relay/config.toml"), Path("/etc/event-relay/config.toml")]

    assert [Path("config.toml"), *etc] == list(CONFIG_FILES)
    assert find_config_file(None, {}) is None
    Path("config.toml").write_text("")
    assert find_config_file(None, {"RELAY_CONFIG": ""}) == Path("config.toml")


def test_relative_path_in_the_file_is_relative_to_the_file(config, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "key").write_text(CANARY)
    (tmp_path / "ca.pem").write_text("")
    file = config(
        f'[upstream]\nurl = "{URL}"\napi_key_file = "key"\nca_file = "ca.pem"\n'
        '[outbox]\npath = "data/outbox.db"\n[http]\nunix_socket = "relay.sock"\n'
    )
    monkeypatch.chdir(tmp_path / "elsewhere")

    settings = load(file, {})

    assert settings.upstream.default.api_key == Secret(CANARY)
    assert settings.upstream.ca_file == str(tmp_path / "ca.pem")
    assert settings.outbox.path == tmp_path / "data/outbox.db"
    assert settings.http.unix_socket == str(tmp_path / "relay.sock")
    assert settings.secret_files == {"upstream.api_key": tmp_path / "key"}


def test_relative_path_in_the_environment_is_relative_to_the_working_directory(config, tmp_path):
    settings = load(config(""), ENOUGH | {"RELAY__HTTP__UNIX_SOCKET": "relay.sock"})

    assert settings.http.unix_socket == "relay.sock"
    assert settings.outbox.path == Path("data/outbox.db")


def test_absolute_path_in_the_file_is_unchanged(config):
    assert load(config('[outbox]\npath = "/var/outbox.db"\n'), ENOUGH).outbox.path == Path("/var/outbox.db")


# -- description and comparison --------------------------------------------------------------------------

ALL_SECRETS = ENOUGH | {
    "RELAY__UPSTREAM__PROXY": "http://user:CANARY%2Dpw@proxy.example:3128",
    "RELAY__OPS__TOKEN": "CANARY-token",
    "RELAY__UPSTREAM__TENANTS__2__API_KEY": "CANARY-two",
    "RELAY__OUTBOX__URL": "postgresql://relay:CANARY%2Ddb@db.example/relay?sslpassword=CANARY-ssl",
}


def test_descriptions_contain_no_secrets():
    settings = load(None, ALL_SECRETS)

    shown = describe(settings)

    assert "CANARY" not in f"{shown} {settings} {settings!r}"
    for name in ("upstream.api_key", "upstream.tenants.2.api_key", "upstream.proxy", "ops.token", "outbox.url"):
        assert shown[name] == MASK
    assert describe(load(None, ENOUGH))["ops.token"] is None


def test_secrets_include_tenant_keys_token_and_passwords():
    found = {secret.reveal() for secret in secrets(load(None, ALL_SECRETS))}

    password = {"CANARY%2Dpw", "CANARY-pw", ALL_SECRETS["RELAY__UPSTREAM__PROXY"]}
    user = urlsplit(ALL_SECRETS["RELAY__UPSTREAM__PROXY"]).username
    basic = b64encode(f"{user}:CANARY-pw".encode()).decode()
    database = {"CANARY%2Ddb", "CANARY-db", "CANARY-ssl", ALL_SECRETS["RELAY__OUTBOX__URL"]}
    assert found == {CANARY, "CANARY-two", "CANARY-token", basic} | password | database


def test_diff_returns_the_changed_keys_and_needs_restart_those_not_applied_by_a_reload():
    old = load(None, ENOUGH)
    new = load(
        None,
        ENOUGH
        | {
            "RELAY__UPSTREAM__API_KEY": "new",
            "RELAY__UPSTREAM__TENANTS__2__URL": "https://two.example/",
            "RELAY__BATCH__LINGER": "1s",
            "RELAY__HTTP__LISTEN": "",
            "RELAY__OUTBOX__DURABILITY": "normal",
        },
    )

    changed = diff(old, new)

    assert set(changed) == {
        "upstream.api_key",
        "upstream.tenants.2.url",
        "upstream.tenants.2.api_key",
        "batch.linger",
        "http.listen",
        "outbox.durability",
    }
    assert needs_restart(changed) == ["http.listen", "outbox.durability"]
    assert diff(new, old) and set(diff(new, old)) == set(changed)
    assert diff(old, load(None, ENOUGH)) == []


def test_changes_contain_old_and_new_values_with_masked_secrets():
    old = load(None, ENOUGH)
    new = load(
        None,
        ENOUGH
        | {
            "RELAY__UPSTREAM__API_KEY": "CANARY-new",
            "RELAY__UPSTREAM__TENANTS__2__URL": "https://two.example/",
            "RELAY__BATCH__LINGER": "1s",
        },
    )

    assert changes(old, new) == {
        "upstream.api_key": f'"{MASK}" -> "{MASK}"',
        "upstream.tenants.2.url": '(none) -> "https://two.example/"',
        "upstream.tenants.2.api_key": f'(none) -> "{MASK}"',
        "batch.linger": '"5s" -> "1s"',
    }


def test_diff_detects_a_change_of_every_key():
    """A reload would not report a change that `diff` does not compare."""
    old = load(None, ENOUGH)
    for key in KEYS:
        if key.in_settings:
            section = replace(getattr(old, key.section), **{key.field: object()})
            assert diff(old, replace(old, **{key.section: section})) == [key.name]


# -- commands that call a running relay ------------------------------------------------------------------


def test_client_needs_neither_url_nor_readable_secrets(config):
    file = config('[upstream]\napi_key_file = "/nowhere"\n[ops]\nlisten = "127.0.0.1:9"\ntoken_file = "/nowhere"\n')

    settings = load_for_client(file, {})

    assert settings.ops.listen == "127.0.0.1:9"
    assert settings.ops.token is None
    assert settings.upstream.default.api_key == Secret("")


def test_other_faults_are_reported_to_clients(config):
    with pytest.raises(ConfigError) as caught:
        load_for_client(config('[http]\nlisten = "x"\n'), {})

    assert [fault.key for fault in caught.value.faults] == ["http.listen"]
