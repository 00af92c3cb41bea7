"""Process-wide utilities of all packages: clock, tasks, log, metrics, secrets, addresses, machine identity."""
