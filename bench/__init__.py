"""Benchmarks of the relay. Each figure is compared with a floor: a minimal program that does the same work.

`make bench` runs all scenarios, `make bench SCENARIO=accept` runs one. Rules: the relay runs in its own process, and
other processes create the load. A timing is a ratio of interleaved runs, shown with its spread. Every run is bounded in
count and time, uses loopback, and writes to a temporary directory. Benchmarks are not tests: slow results do not fail.
"""
