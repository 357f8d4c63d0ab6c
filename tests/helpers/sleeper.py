"""A worker that does nothing but stay, for tests of how process groups end."""

import argparse
import signal
import sys
import time
from pathlib import Path

from components.training.processes import leave_mark
from components.training.stopping import leave_with_parents


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    options = parser.parse_args()
    if options.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave_with_parents()
    leave_mark(options.work_dir)
    sys.stdout.write("ready\n")  # one write, so that two workers' lines do not mix
    sys.stdout.flush()
    time.sleep(120)


if __name__ == "__main__":
    main()
