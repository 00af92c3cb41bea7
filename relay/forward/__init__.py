"""Events out: the forwarder asks the schedule, moves the batches, and tells the outbox what became of them."""
