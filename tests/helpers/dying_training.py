"""The product's own training, of which every process kills itself by SIGKILL in the middle of a step.

    python -m tests.helpers.dying_training --spec SPEC.json --kill-at STEP

What is patched is when it dies, and nothing else.
"""

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from components.training import loop, worker
from components.training.spec import TrainSpec
from components.training.watch import Window


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--kill-at", type=int, required=True)
    options = parser.parse_args()

    class DyingWindow(Window):
        """Weights have moved, nothing has been written."""

        def add(self, step: int, outputs: Sequence[Mapping[str, Tensor]], norm: Tensor, keys: Sequence[str]) -> None:
            if step == options.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            super().add(step, outputs, norm, keys)

    loop.Window = DyingWindow  # type: ignore[misc]
    return worker.main(TrainSpec.model_validate_json(options.spec.read_text()), options.spec.parent.resolve())


if __name__ == "__main__":
    sys.exit(main())
