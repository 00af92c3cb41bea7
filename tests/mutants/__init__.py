"""Relays that break one promise each, and the tests that must see it. Run by `make mutants`."""
