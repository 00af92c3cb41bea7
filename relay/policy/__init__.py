"""Pure decisions: no await, no clock, no randomness, no log, no metric, no I/O.

`now` is monotonic milliseconds and `u` is a uniform draw from [0, 1). Both are arguments, so that the service, the
simulation and a replay of either run the same objects.
"""
