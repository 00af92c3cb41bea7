"""Faults of the field, injected into the real relay process. Sizes and seeds: `sizes`."""
