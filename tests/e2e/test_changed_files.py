"""Renewed key and certificate files: the relay applies them without a signal, and applies no other change."""

from __future__ import annotations

import os
import shutil
import ssl
import sys
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.abuse.certificates import Authority
from tests.e2e.harness import KEY, environment, event, running, serving

APPLIED, REJECTED = "configuration applied", "configuration rejected, the previous one stays in effect"
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")


def renew(file: Path, source: Path) -> None:
    """Replace a file atomically, as certificate managers do."""
    new = file.with_suffix(".new")
    shutil.copy(source, new)
    os.replace(new, file)


@pytest.fixture
def known(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("known"))


@pytest.fixture
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("unknown"))


@needs_openssl
@pytest.mark.parametrize("name", ["upstream.ca_file", "system CA file"])
async def test_renewed_authorities_are_used(known: Authority, unknown: Authority, tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "bundle.pem"
    shutil.copy(unknown.file, bundle)
    async with serving(known.server("good")) as upstream:
        env = environment(upstream.url, tmp_path / "state")
        env |= {"SSL_CERT_FILE" if name.startswith("system") else "RELAY__UPSTREAM__CA_FILE": str(bundle)}
        async with running(env) as relay:
            assert await relay.post(event(1)) == 202
            await relay.until(lambda status: status["upstreams"][0]["state"] == "backing_off")

            renew(bundle, known.file)

            assert (await relay.logged(APPLIED))["changed"] == {name: "renewed"}
            await relay.until(lambda status: status["ledger"]["delivered"] == 1)


@needs_openssl
async def test_a_renewed_client_certificate_is_used_once_its_key_fits(
    known: Authority, unknown: Authority, tmp_path: Path
) -> None:
    context = known.server("good")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(known.file)
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    for file, source in zip((certificate, key), unknown.issue("client"), strict=True):
        shutil.copy(source, file)
    new_certificate, new_key = known.issue("client")
    files = {"upstream__client_cert_file": str(certificate), "upstream__client_key_file": str(key)}
    async with serving(context) as upstream:
        env = environment(upstream.url, tmp_path / "state", upstream__ca_file=str(known.file), **files)
        async with running(env) as relay:
            assert await relay.post(event(1)) == 202
            await relay.until(lambda status: status["upstreams"][0]["state"] == "backing_off")

            renew(certificate, new_certificate)
            error = (await relay.logged(REJECTED))["error"]
            assert f"upstream.client_cert_file {certificate} and upstream.client_key_file {key}" in error
            renew(key, new_key)

            changed = (await relay.logged(APPLIED))["changed"]
            assert changed == {"upstream.client_cert_file": "renewed", "upstream.client_key_file": "renewed"}
            await relay.until(lambda status: status["ledger"]["delivered"] == 1)


@pytest.mark.parametrize(
    "edited",
    ["[rate\n", '[upstream.tenants.2]\napi_key = "canary-new-7a8b9c"\n[batch]\nmax_events = 8\n'],
    ids=["not TOML", "other keys"],
)
async def test_a_changed_key_file_is_applied_alone(sandbox: Sandbox, tmp_path: Path, edited: str) -> None:
    """A change of the configuration file, valid or not, still needs a reload."""
    file, key_file = tmp_path / "config.toml", tmp_path / "key"
    file.write_text('[upstream.tenants.2]\napi_key = "canary-old-4d5e6f"\n')
    key_file.write_text("canary-wrong-1a2b3c\n")
    env = environment(sandbox.url, tmp_path, upstream__api_key_file=str(key_file))
    del env["RELAY__UPSTREAM__API_KEY"]
    async with running(env, sys.executable, "-m", "relay", "run", "--config", str(file)) as relay:
        file.write_text(edited)
        key_file.write_text(KEY + "\n")

        assert list((await relay.logged(APPLIED))["changed"]) == ["upstream.api_key"]
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)


async def test_a_tenant_without_a_key_uses_the_default_key_file(sandbox: Sandbox, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("canary-wrong-1a2b3c\n")
    own = {"upstream__api_key_file": str(key_file), "upstream__tenants__2__url": sandbox.url}
    env = environment(sandbox.url, tmp_path, **own)
    del env["RELAY__UPSTREAM__API_KEY"]
    async with running(env) as relay:
        key_file.write_text(KEY + "\n")

        assert list((await relay.logged(APPLIED))["changed"]) == ["upstream.api_key", "upstream.tenants.2.api_key"]
        assert await relay.post(event(1, tenant_id=2)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
