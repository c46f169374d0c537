"""What the local tasks take from their documents."""

import os
import signal


def video(doc):
    """The file that a question is about."""
    return [doc["video"]]


def kill(doc):
    """No file, ever."""
    os.kill(os.getpid(), signal.SIGKILL)
