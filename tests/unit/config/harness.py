"""A complete configuration of two values, for tests that add their own."""

from __future__ import annotations

URL = "https://upstream.example/v1/events"
CANARY = "CANARY-7f3a"
ENOUGH = {"RELAY__UPSTREAM__URL": URL, "RELAY__UPSTREAM__API_KEY": CANARY}
