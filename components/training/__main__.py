"""`python -m components.training --spec SPEC.json`: one process of a training; torchrun starts as many as needed."""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Read the spec and train. The outcome is left beside the spec."""
    parser = argparse.ArgumentParser(prog="python -m components.training", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--spec", type=Path, help="JSON of a TrainSpec, in the working folder")
    what.add_argument("--join", metavar="STORE", help="take part in the trainings announced there, as `capfilt join`")
    options = parser.parse_args()
    if options.join is not None:
        from components.common.redact import redact_output
        from components.training.joining import join

        redact_output()
        join(options.join)
        return 0
    from components.training.spec import TrainSpec
    from components.training.worker import main as work

    return work(TrainSpec.model_validate_json(options.spec.read_text()), options.spec.parent.resolve())


if __name__ == "__main__":
    sys.exit(main())
