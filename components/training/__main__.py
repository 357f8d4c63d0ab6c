"""`python -m components.training --spec SPEC.json`: one process of a training; torchrun starts as many as needed."""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Read the spec and train. The outcome is left beside the spec."""
    parser = argparse.ArgumentParser(prog="python -m components.training", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--spec", type=Path, help="JSON of a TrainSpec, in the working folder")
    what.add_argument("--join", type=Path, help="working folder of a training that machine 0 launches (nodes.py)")
    options = parser.parse_args()
    from components.training.spec import TrainSpec

    if options.join is not None:
        from components.training.group import join

        return join(options.join, lambda path: TrainSpec.model_validate_json(path.read_text()).config.launch)
    from components.training.worker import main as work

    return work(TrainSpec.model_validate_json(options.spec.read_text()), options.spec.parent.resolve())


if __name__ == "__main__":
    sys.exit(main())
