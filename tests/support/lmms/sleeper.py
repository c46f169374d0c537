"""A process like that of lmms-eval which never ends by itself, and neither does what it has started."""

import os
import subprocess
import sys
import time
from pathlib import Path

from framefold.evaluation.lmms.process import follow_parent

if __name__ == "__main__":
    follow_parent()
    worker = subprocess.Popen(["sleep", "300"])
    beside = Path(f"{sys.argv[1]}.part")
    beside.write_text(f"{os.getpid()} {worker.pid}")
    beside.rename(sys.argv[1])
    time.sleep(300)
