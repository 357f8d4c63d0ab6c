"""When a process started: what tells it from a later one of the same number.

The time of day will not do: it is set anew now and then, by hand or by NTP after a machine has slept, and with it the
time of day at which every process is said to have started. A training would take its launcher for dead, and a lock its
living holder for gone.
"""

import os
from pathlib import Path

import psutil


def started(pid: int) -> float | None:
    """Seconds after the machine's start, where that is known, else since 1970; None: it has ended, or is a zombie."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        since_boot = _since_boot(pid)
        return float(process.create_time()) if since_boot is None else since_boot
    except (psutil.Error, ValueError):
        return None


def _since_boot(pid: int) -> float | None:
    """As Linux counts it, in hundredths; None on other systems."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = line.rpartition(")")[2].split()  # a name may hold blanks and brackets
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")
