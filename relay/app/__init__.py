"""Run the relay: composition, start and stop, reload, routes, service manager, installation."""
