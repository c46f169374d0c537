"""Functions that the local tasks apply to their documents."""

import os
import signal


def video(doc):
    """Return the file that a question is about."""
    return [doc["video"]]


def kill(doc):
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)
