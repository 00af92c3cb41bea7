"""A stand-in upstream for demo, tests, benchmarks and people working offline, and simulated devices.

`server.Sandbox` is the way in; `settings` says what it can be, `faults` how it can misbehave, `record` what it can
tell. Behind them: `application` decides, `limits`, `validate` and `php` are the upstream's rules, `answers` its words,
`wire` and `misbehave` its bytes, `control` its remote. `devices` is the other end of a relay.
"""
