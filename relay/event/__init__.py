"""Convert received bytes to events, or report every error by its path. Pure."""
