"""The relay: keeps events of apps on a box, and forwards them upstream within its limits."""

__version__ = "0.1.0"
