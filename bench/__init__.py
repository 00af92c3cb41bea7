"""Benchmarks: what the relay costs, each figure beside its own floor.

`make bench` runs all of them, `make bench SCENARIO=accept` one. Rules: the measured process is a process of
its own and its load comes from others; a timing is a ratio of interleaved runs with its spread shown; everything is
bounded in count and time, on loopback, in a temporary directory. No benchmark is a test: none fails by being slow.
"""
