"""The code that all stores share: clock, queue index, dedupe window, checksum, fair share, limits."""
