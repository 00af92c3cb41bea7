"""From datagrams to stored events."""
