"""A relay that stores events of apps on a machine and forwards them to an upstream within its rate limits."""

__version__ = "0.1.0"
