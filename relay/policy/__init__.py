"""Decisions, and nothing else: no await, no clock, no randomness, no log, no metric, no I/O.

`now` is monotonic milliseconds and `u` a uniform draw from [0, 1); both are arguments, so the same
objects run in the service, in the simulation and in a replay of either.
"""
