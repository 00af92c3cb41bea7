"""The HTTP server that `ingest` and `ops` share."""
