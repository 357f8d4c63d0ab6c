"""`python -m components.training --spec SPEC.json`: one process of a training; torchrun starts as many as needed."""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Read the spec and train. The outcome is left beside the spec."""
    parser = argparse.ArgumentParser(prog="python -m components.training", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="JSON of a TrainSpec, in the working folder")
    path: Path = parser.parse_args().spec
    from components.training.spec import TrainSpec
    from components.training.worker import main as work

    return work(TrainSpec.model_validate_json(path.read_text()), path.parent)


if __name__ == "__main__":
    sys.exit(main())
