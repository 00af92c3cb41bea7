"""Stand-ins and data that the tests of several packages share."""
