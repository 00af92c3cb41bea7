"""The shared outbox: several relays store in and send from one PostgreSQL database.

`outbox` implements relay.outbox.Outbox. `database` lists the transactions of a replica, so that tests can run it on a
database in memory. Three tasks use the database, each on its own connection: `appending` stores events, `forwarding`
claims and settles them, and `watching` polls for new events, renews the lease and exchanges queue groups with the
other replicas. `lease` decides by time; `commits`, `queues` and `others` are the state in memory; `moves` are the calls
of the forwarder as parts of a transaction.
"""
