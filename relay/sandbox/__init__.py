"""A stand-in upstream for the demo, tests, benchmarks and offline development, and simulated devices.

`server.Sandbox` is the entry point. `settings` defines its options, `faults` the faults that a script can inject, and
`record` the report. `application` decides each response. `limits`, `validate` and `php` implement the upstream's rules.
`responses` builds the responses, `wire` and `connection_faults` do the I/O, and `control` is the control API.
`devices` simulates the apps at the other end of a relay.
"""
