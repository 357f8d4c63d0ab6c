"""`make bench`: our pre-training step and our CapFilt against what one would write with transformers, on this machine.

python -m tests.benchmarks [--quick]

Each comparison takes both sides in one run; see the modules for their own options. `--quick` takes three steps of small
batches, to see that everything works.
"""

import argparse
import subprocess
import sys


def main() -> None:
    """Run the comparisons one after the other; a failing one ends the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches and few steps")
    quick = parser.parse_args().quick
    step = ["--batch", "2", "--steps", "2"] if quick else ["--batch", "8", "--steps", "5"]
    turns = ["--batch", "2", "--turns", "1"] if quick else ["--batch", "8", "--turns", "3"]
    _bench("bench_pretrain_step", *step, "--texts", "30", "--dtype", "fp32", "bf16")
    _bench("bench_pretrain_step", *step, "--texts", "real", "--dtype", "fp32")
    _bench("bench_capfilt", *turns)


def _bench(module: str, *options: str) -> None:
    subprocess.run([sys.executable, "-m", f"tests.benchmarks.{module}", *options], check=True)


if __name__ == "__main__":
    main()
