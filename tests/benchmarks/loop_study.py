"""Does the loop help, and is it the filter's doing? The sample run over seeds, mixtures, and with a coin as filter.

    python -m tests.benchmarks.loop_study --seeds 0 1 2 3 4 --bad-share 0.3 0.55 0.7 --out /tmp/study

Each run is a `capfilt run configs/sample.yaml` of its own with `--set`; finished ones are found done, so the study can
be stopped and started again. The table goes to stdout as Markdown, the figures to OUT/study.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

RECALL, CIDER = "eval/retrieval/mean_recall", "eval/caption/cider"


def main() -> None:
    """Run what is missing, then print the table."""
    options = _options()
    rows = []
    for share in options.bad_share:
        for seed in options.seeds:
            plain = _run(options.out, seed, share, None)
            rows.append(_row(plain, seed, share, "filter"))
            if options.coin:
                rate = _kept_share(plain)
                rows.append(_row(_run(options.out, seed, share, rate), seed, share, f"coin {rate:.2f}"))
    (options.out / "study.json").write_text(json.dumps(rows, indent=1))
    sys.stdout.write(_table(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--bad-share", type=float, nargs="+", default=[0.55], help="share of web texts that are bad")
    parser.add_argument("--coin", action="store_true", help="also run each with a coin of the filter's keep rate")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    return parser.parse_args()


def _run(out: Path, seed: int, share: float, coin: float | None) -> dict[str, Any]:
    name = f"seed{seed}-bad{share}" + ("" if coin is None else "-coin")
    done = out / f"{name}.json"
    if not done.exists():
        # coin and filter share one store: stages up to the first CapFilt are found done
        sets = [f"seed={seed}", f"data.sampleworld.bad_share={share}", f"store={out / f'seed{seed}-bad{share}'}"]
        sets += [] if coin is None else [f"capfilt.coin={coin:.4f}", "name=sample-coin"]
        command = [str(Path(sys.executable).parent / "capfilt"), "run", "configs/sample.yaml", "--json"]
        command += [part for item in sets for part in ("--set", item)]
        with (out / f"{name}.log").open("w") as log:
            result = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, check=True)
        done.write_text(result.stdout)
    report: dict[str, Any] = json.loads(done.read_text())
    return report


def _kept_share(report: dict[str, Any]) -> float:
    """Share of all texts, web and synthetic, that the filter kept."""
    metrics = report["rounds"][1]["metrics"]
    kept, dropped = metrics["capfilt/kept_pairs"], metrics["capfilt/dropped_pairs"]
    return float(kept / (kept + dropped))


def _row(report: dict[str, Any], seed: int, share: float, kind: str) -> dict[str, Any]:
    before, after = (report["rounds"][k]["metrics"] for k in (0, 1))
    row: dict[str, Any] = {"bad share": share, "seed": seed, "kept by": kind}
    for label, key in (("mean recall", RECALL), ("CIDEr", CIDER)):
        row[f"{label} 0"], row[f"{label} 1"] = before[key], after[key]
    for label in ("filter_precision", "filter_recall", "synthetic_true_before", "synthetic_true"):
        row[label.replace("_", " ")] = after.get(f"truth/{label}", before.get(f"truth/{label}", float("nan")))
    return row


def _table(rows: list[dict[str, Any]]) -> str:
    heads = list(rows[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        lines.append("| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    for share in sorted({row["bad share"] for row in rows}):
        for kind in ("filter", "coin"):
            chosen = [row for row in rows if row["bad share"] == share and row["kept by"].startswith(kind)]
            if chosen:
                lines.append(f"\nbad share {share}, {kind}: {_summary(chosen)}")
    return "\n".join(lines) + "\n"


def _summary(rows: list[dict[str, Any]]) -> str:
    gains = {label: [row[f"{label} 1"] - row[f"{label} 0"] for row in rows] for label in ("mean recall", "CIDEr")}
    both = sum(a > 0 and b > 0 for a, b in zip(*gains.values(), strict=True))
    means = ", ".join(f"{label} {statistics.mean(values):+.3f}" for label, values in gains.items())
    return f"round 1 above round 0 in both in {both} of {len(rows)}; mean gain {means}"


if __name__ == "__main__":
    main()
