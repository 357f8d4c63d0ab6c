"""Does the loop help, and is it the filter's doing? The sample run over seeds, mixtures and controls.

    python -m tests.benchmarks.loop_study --seeds 0 1 2 3 --arms filter coin oracle longer --out /tmp/study
    python -m tests.benchmarks.loop_study --config configs/flickr8k.yaml --set data.web=DIR … --out /tmp/photos

Each arm is compared with round 0 of its seed:
    filter   the run as it is shipped
    coin     a coin of the filter's keep rate in its place
    oracle   the world's truth in its place (oracle.py)
    longer   no round 1 at all: round 0's data, pre-trained for as many steps more as round 1 takes

Each run is a `capfilt run CONFIG` of its own with `--set`, of the sample unless told otherwise; finished ones are found
done, so the study can be stopped and started again. The table goes to stdout as Markdown, the figures to
OUT/study.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from components.config import load_config
from components.data.sampleworld.judge import read_caption

RECALL, CIDER, BASE = "eval/retrieval/mean_recall", "eval/caption/cider", "base/mean_recall"
GAINS = ("mean recall", "CIDEr")
ARMS = ("filter", "coin", "oracle", "longer")
CONFIG = "configs/sample.yaml"
Report = dict[str, Any]


def main() -> None:
    """Run what is missing, then print the table."""
    options = _options()
    rows = list(_rows(Study(options.out, options.config, options.set), options.bad_share, options.seeds, options.arms))
    (options.out / "study.json").write_text(json.dumps(rows, indent=1))
    sys.stdout.write(table(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5, 6, 7])
    parser.add_argument("--config", default=CONFIG, help="what is run")
    parser.add_argument(
        "--bad-share", type=float, nargs="+", default=[0.55], help="share of web texts that are bad, in a sample world"
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["filter"], help="what is run of each seed")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of every run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    return parser.parse_args()


@dataclass(frozen=True)
class Study:
    """Where runs lie, what is run, and the settings that all of them share."""

    out: Path
    config: str
    sets: Sequence[str]

    @property
    def generated(self) -> bool:
        """Whether pictures and texts come of the sample world, and so its truth is known."""
        return load_config(self.config, self.sets).data.source == "sampleworld"


def _rows(study: Study, shares: Sequence[float], seeds: Sequence[int], arms: Sequence[str]) -> Iterator[dict[str, Any]]:
    for share in shares if study.generated else [None]:
        for seed in seeds:
            # all arms share one store: stages up to the first CapFilt are found done
            name = f"seed{seed}" if share is None else f"seed{seed}-bad{share}"
            mixture = [] if share is None else [f"data.sampleworld.bad_share={share}"]
            common = [f"seed={seed}", *mixture, f"store={study.out / name}", *study.sets]
            base = _run(study, name, common)
            for arm in arms:
                report = base if arm == "filter" else _control(study, arm, base, common)
                yield row(arm, seed, share, base, report)


def _control(study: Study, arm: str, base: Report, sets: Sequence[str]) -> Report:
    """The run of a control: coin, oracle or longer."""
    config = load_config(study.config, sets)
    more = {
        "coin": ["capfilt.calibrated=null", f"capfilt.coin={kept_share(base):.4f}"],
        "oracle": ["capfilt.calibrated=null", "capfilt.coin=1.0"],
        "longer": [f"pretrain.steps={2 * (config.pretrain.steps or 0)}", "rounds=0"],
    }[arm]
    program = ["-m", "tests.benchmarks.oracle", config.store] if arm == "oracle" else ["-m", "capfilt.cli.main"]
    return _run(study, f"{Path(config.store).name}-{arm}", [*sets, *more, f"name={config.name}-{arm}"], program)


def _run(study: Study, name: str, sets: Sequence[str], program: Sequence[str] = ("-m", "capfilt.cli.main")) -> Report:
    done = study.out / f"{name}.json"
    if not done.exists():
        study.out.mkdir(parents=True, exist_ok=True)
        settings = [part for one in sets for part in ("--set", one)]
        command = [sys.executable, *program, "run", study.config, "--json", *settings]
        with (study.out / f"{name}.log").open("w") as log:
            result = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, check=True)
        done.write_text(result.stdout)
    report: Report = json.loads(done.read_text())
    return report


def kept_share(report: Report) -> float:
    """Share of all texts, web and synthetic, that the filter kept."""
    metrics = report["rounds"][1]["metrics"]
    kept, dropped = metrics["capfilt/kept_pairs"], metrics["capfilt/dropped_pairs"]
    return float(kept / (kept + dropped))


def row(arm: str, seed: int, share: float | None, base: Report, report: Report) -> dict[str, Any]:
    """Figures of one run: round 0 of the seed, and the arm's last round."""
    before, after = base["rounds"][0], report["rounds"][-1]
    found: dict[str, Any] = {"bad share": share, "seed": seed, "arm": arm}
    for label, key in (("base recall", BASE), ("mean recall", RECALL), ("CIDEr", CIDER)):
        found[f"{label} 0"], found[f"{label} 1"] = (one["metrics"].get(key, float("nan")) for one in (before, after))
    truths = ("filter_precision", "filter_recall", "synthetic_true_before", "synthetic_true", "pairs_true")
    found |= {name.replace("_", " "): after["metrics"].get(f"truth/{name}", float("nan")) for name in truths}
    return found | {"claims 0": claims(before) if share is not None else float("nan")}


def claims(one: Mapping[str, Any]) -> float:
    """Claims in a round's captions of test images, as a share of those in people's captions of the same images."""
    details = one.get("details_uri")
    if details is None:
        return float("nan")
    images = json.loads(Path(details.removeprefix("file://")).read_text())["images"]
    written = [_claims(image["caption"]) for image in images]
    people = [statistics.mean(map(_claims, image["references"])) for image in images]
    return statistics.mean(written) / statistics.mean(people)


def _claims(text: str) -> int:
    reading = read_caption(text)
    others = len(reading.relations) + len(reading.ground) + len(reading.loose) + len(reading.foreign)
    return sum(mention.size for mention in reading.mentions) + others


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All runs as Markdown, and of each arm the mean gain over seeds."""
    heads = [name for name in rows[0] if any(_known(one[name]) for one in rows)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in rows:
        cells = [f"{one[name]:.3f}" if isinstance(one[name], float) else str(one[name]) for name in heads]
        lines.append("| " + " | ".join(cells) + " |")
    for share in dict.fromkeys(one["bad share"] for one in rows):
        for arm in ARMS:
            chosen = [one for one in rows if one["bad share"] == share and one["arm"] == arm]
            if chosen:
                world = "" if share is None else f"bad share {share}, "
                lines.append(f"\n{world}{arm}: {_summary(chosen)}{_beside_filter(chosen, rows)}")
    return "\n".join(lines) + "\n"


def _known(value: Any) -> bool:
    return value is not None and value == value  # nan: not measured


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    gains = {name: [one[f"{name} 1"] - one[f"{name} 0"] for one in rows] for name in GAINS}
    both = sum(a > 0 and b > 0 for a, b in zip(*gains.values(), strict=True))
    means = ", ".join(f"{name} {_mean(values)}" for name, values in gains.items())
    return f"round 1 above round 0 in both in {both} of {len(rows)}; mean gain {means}"


def _beside_filter(rows: Sequence[Mapping[str, Any]], every: Sequence[Mapping[str, Any]]) -> str:
    """How far the filter's last round is above that of a control, in the mean over the same seeds."""
    filtered = {(one["bad share"], one["seed"]): one for one in every if one["arm"] == "filter"}
    pairs = [(filtered.get((one["bad share"], one["seed"])), one) for one in rows if one["arm"] != "filter"]
    if not all(ours for ours, _ in pairs) or not pairs:
        return ""
    gaps = {name: [ours[f"{name} 1"] - other[f"{name} 1"] for ours, other in pairs if ours] for name in GAINS}
    return "; the filter above it: " + ", ".join(f"{name} {_mean(values)}" for name, values in gaps.items())


def _mean(values: Sequence[float]) -> str:
    """Mean over seeds; of several with the 95 % interval by Student's t: the noise of seeds, not of test images."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.3f}"
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


if __name__ == "__main__":
    main()
