"""`make bench`: our pre-training step and our CapFilt against what one would write with transformers, on this machine.

python -m tests.benchmarks [--quick] [--device cuda]

Each comparison takes both sides in one run; see the modules for their own options. `--quick` takes three steps of small
batches, to see that everything works.
"""

import argparse
import subprocess
import sys

from tests.benchmarks.bench_pretrain_step import check_device


def main() -> None:
    """Run the comparisons one after the other; a failing one ends the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches and few steps")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="cuda: `make bench-gpu`")
    options = parser.parse_args()
    quick = options.quick
    if options.device == "cuda":
        _on_a_gpu(quick)
        return
    step = ["--batch", "2", "--steps", "2"] if quick else ["--batch", "8", "--steps", "5"]
    turns = (
        ["--batch", "2", "--turns", "1"] if quick else ["--batch", "8", "--turns", "3", "--image-size", "224", "384"]
    )
    _bench("bench_pretrain_step", *step, "--texts", "30", "--dtype", "fp32", "bf16")
    _bench("bench_pretrain_step", *step, "--texts", "real", "--dtype", "fp32")
    _bench("bench_capfilt", *turns)


def _on_a_gpu(quick: bool) -> None:
    """The tests that need a GPU, then both sides on it; ours again at the largest batch that fits."""
    check_device("cuda")
    subprocess.run([sys.executable, "-m", "pytest", "tests/gpu", "-q"], check=True)
    step = ["--device", "cuda", "--dtype", "bf16", "--steps", "3" if quick else "20"]
    turns = ["--batch", "8", "--turns", "1"] if quick else ["--batch", "64", "--turns", "5"]
    _bench("bench_pretrain_step", *step, "--batch", "8" if quick else "64", "--texts", "30")
    _bench("bench_pretrain_step", *step, "--batch", "8" if quick else "64", "--texts", "real")
    _bench("bench_pretrain_step", *step, "--batch", "64", "--largest-batch")
    _bench("bench_capfilt", *turns, "--device", "cuda")


def _bench(module: str, *options: str) -> None:
    subprocess.run([sys.executable, "-m", f"tests.benchmarks.{module}", *options], check=True)


if __name__ == "__main__":
    main()
