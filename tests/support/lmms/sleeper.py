"""A stand-in for lmms-eval's process: neither it nor its child ever ends without being killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

from framefold.evaluation.lmms.process import follow_parent

if __name__ == "__main__":
    follow_parent()
    worker = subprocess.Popen(["sleep", "300"])
    temporary = Path(f"{sys.argv[1]}.part")
    temporary.write_text(f"{os.getpid()} {worker.pid}")
    temporary.rename(sys.argv[1])
    time.sleep(300)
