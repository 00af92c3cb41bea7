"""Send pending events to the upstream, in batches that the schedule selects, and settle them in the outbox."""
