"""A training that prints, logs and dies of what nobody may see."""

import logging
import sys
from pathlib import Path

from components.training.outcome import write_failure

LOGIN = "s3://AKIAX:wJalrXUtnFEMI@bucket"


def main() -> int:
    work_dir = Path(sys.argv[1])
    print(f"fetching {LOGIN}/a", flush=True)
    print(f"fetching {LOGIN}/b", file=sys.stderr, flush=True)
    logging.getLogger("somebody.else").error("fetching %s/c", LOGIN)
    try:
        raise OSError(f"no answer from {LOGIN}/d")
    except OSError as error:
        write_failure(work_dir, error)
        raise


if __name__ == "__main__":
    sys.exit(main())
