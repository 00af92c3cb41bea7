"""The running relay: composition, start and stop, reload, routes, service manager, installation."""
