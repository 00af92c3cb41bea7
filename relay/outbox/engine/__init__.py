"""The outbox on any store.

`outbox` implements relay.outbox.Outbox: each call becomes part of a commit. `group_commit` is the task that commits,
and `life` its states. `commit_plan`, `operations` and `dead_letters` translate calls into `commands`, which a store
executes (see `storage`). `outbox_state` is the state in memory. `deletion` chooses the rows to delete.
"""
