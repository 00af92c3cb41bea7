"""What every part needs of the process: clock, tasks, log, metrics, secrets, addresses, machine identity."""
