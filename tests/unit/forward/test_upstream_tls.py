"""The TLS context of upstream connections."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from relay.config import load
from relay.forward.upstream import tls_context


@pytest.mark.parametrize("url", ["https://events.example.com/v1/events", "http://127.0.0.1:9/v1/events"])
def test_session_keys_are_not_written_to_the_file_of_sslkeylogfile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    key_log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(key_log))

    settings = load(None, {"RELAY__UPSTREAM__URL": url, "RELAY__UPSTREAM__API_KEY": "canary-key-1"})
    context = tls_context(settings.upstream)

    assert context.keylog_filename is None
    assert not key_log.exists()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
