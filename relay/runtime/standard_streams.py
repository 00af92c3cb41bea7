"""Open closed standard streams: a shell or a supervisor may start the relay with `2>&-`."""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """Open /dev/null in place of a closed standard stream (`2>&-`).

    Otherwise the first file that the relay opens gets the free descriptor, and a library that writes to stderr writes
    into that file, for example the outbox.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The kernel assigns the lowest free descriptor, which is this one: all lower ones are open by now.
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "r" if descriptor == 0 else "w", closefd=False))
