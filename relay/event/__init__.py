"""Events: from received bytes to events, or to every fault by its path. Pure."""
