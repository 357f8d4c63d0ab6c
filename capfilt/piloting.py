"""A pilot: CapFilt over a sample, to see what the whole would give and cost. What `capfilt.pilot` does."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.common.errors import ConfigError

if TYPE_CHECKING:
    from capfilt.api import Place
    from components.common.contracts import ModelRef
    from components.common.storage import Store
    from components.data.candidates import Candidate
    from components.evaluation.dataset import Truth
    from components.regeneration.config import CapfiltConfig
    from components.regeneration.pilot import Estimate, PilotResult
    from components.regeneration.sample import Sample

EXAMPLES = 24


def pilot(
    *,
    web: "Place",
    captioner: "Place",
    filter: "Place",  # noqa: A002 - the role's name
    out: "Place",
    images: int = 500,
    calibration: "tuple[Place, Place] | None" = None,
    truth: "Place | None" = None,
    scorers: "Mapping[str, Place] | None" = None,
    config: "CapfiltConfig | None" = None,
    **settings: Any,
) -> "PilotResult":
    """CapFilt over a sample of web shards: what `regenerate` with the same arguments would give, and would cost.

    Images are drawn from all shards in proportion (from 64 of them, if there are more), the same ones each time. Their
    captions and decisions are those that the whole run will make. Nothing of them stays but figures and a page under
    `OUT.pilot`, and, so that nothing is paid for twice, the answers of a captioner's server and a chosen threshold.

    Args:
        web, captioner, filter, out, scorers, config, settings: as `regenerate` takes them.
        images: how many to draw.
        calibration: as `regenerate` takes it; also without a target it says how precise the threshold is.
        truth: parquet with `key` and `kind` of the web texts (`match`: it fits), where that is known.

    Returns:
        Shares with intervals, time and cost of the whole, and where the page is.

    Raises:
        ConfigError: a setting is wrong, or a cascade's bands have yet to be found.
        DataError: no image can be drawn.
        ModelError: a folder holds no such model.
        GateError: captions have collapsed, or no threshold reaches the target.
        StorageError: a place refuses.
    """
    from capfilt.api import _config, referenced
    from components.common.scratch import ScratchFolder
    from components.common.storage import open_store
    from components.data.candidates import stored_candidates
    from components.data.manifest import load_manifest
    from components.regeneration.pilot import Watch
    from components.regeneration.plan import web_input
    from components.regeneration.run import run_capfilt
    from components.regeneration.sample import draw_sample
    from components.regeneration.worker import answers_of

    config = _config(config, settings)
    _check(config, calibrated=calibration is not None)
    target = open_store(fspath(out))
    target.check()
    writer, judge, others = referenced(captioner, filter, scorers or {})
    known = _truth(truth)
    with ScratchFolder("pilot") as folder:
        precision = None
        if calibration is not None:
            config, precision = _measured(judge, calibration, config, target, folder)
        sample = draw_sample(web_input(fspath(web), config.limit), images, config.seed, folder)
        made = open_store(str(folder / "made"))
        with (watch := Watch(len(sample.shard_of), "pilot")):
            place: dict[str, Any] = {"store": made, "out": made, "name": "pilot", "answers": answers_of(target.uri)}
            alone = config.model_copy(update={"limit": None})
            result = run_capfilt(
                sample.web.uri, writer, judge, alone, **place, scorers=others, progress=watch, work_dir=folder
            )
        manifest = load_manifest(made.uri)
        rows = [row for one in manifest.shards for row in stored_candidates(made.uri, one.parquet).rows()]
        found = _found(config, sample, rows, result.metrics, watch.images_per_second)
        found |= _precision(precision, rows, known) | _cost(fspath(captioner), config, sample, target)
        return _published(found, target, made.uri, sample, known)


def _check(config: "CapfiltConfig", *, calibrated: bool) -> None:
    if config.needs_band:
        raise ConfigError(
            "a pilot is smaller than the sample that a cascade's bands are found on: leave the cascade out, or give "
            "its bands (cascade.web, cascade.synthetic)"
        )
    if config.engine == "ray":
        raise ConfigError(
            "a pilot's images lie on this machine, where a Ray cluster does not see them: set engine local"
        )
    if config.needs_calibration and not calibrated:
        raise ConfigError("target_precision, or calibrated without weights, needs calibration (captions JSON, images)")


def _truth(truth: "Place | None") -> "dict[str, Truth]":
    from components.evaluation.dataset import load_truth

    return {} if truth is None else load_truth(fspath(truth))


def _measured(
    judge: "ModelRef", human: "tuple[Place, Place]", config: "CapfiltConfig", target: "Store", folder: Path
) -> "tuple[CapfiltConfig, Estimate | None]":
    """The settings with what human captions choose, kept for the whole run; how precise the threshold is by them."""
    from components.common.storage import open_store
    from components.data.coco import import_coco
    from components.regeneration.calibration import remembered, run_calibration, settle
    from components.regeneration.drift import stored_scores
    from components.regeneration.pilot import human_precision
    from components.regeneration.weighing import deciding_scores

    annotations, images = (fspath(place) for place in human)
    scratch = open_store(str(folder / "human"))
    data = import_coco(annotations, images, store=scratch, name="calibration", limit=config.calibration.images)
    fresh = run_calibration(judge, data, config, store=scratch, work_dir=folder)
    kept = remembered(target, judge, data, config, lambda: fresh.model_copy(update={"scores_uri": None}))
    settled = settle(config, kept, judge)
    if fresh.scores_uri is None or any(one is not None for one in (settled.keep, settled.weigh, settled.coin)):
        return settled, None
    bad_share = config.calibration.bad_share
    scores = stored_scores(fresh.scores_uri)
    right, wrong, _ = deciding_scores(scores, config.calibrated or "itm", settled.weights, bad_share)
    return settled, human_precision(right, wrong, settled.threshold, bad_share)


def _found(
    config: "CapfiltConfig", sample: "Sample", rows: "Sequence[Candidate]", metrics: Mapping[str, float], rate: float
) -> dict[str, Any]:
    from components.regeneration.pilot import kept_share

    kept = Counter(sample.shard_of[key] for key in {row.key for row in rows if row.kept})
    by_shard = {name: (kept[name], drawn) for name, drawn in sample.drawn.items()}
    ruled = any(one is not None for one in (config.keep, config.weigh, config.coin))
    return {
        "images": sample.images,
        "of": sample.of,
        "counted": sample.counted,
        "shards": len(sample.drawn),
        "threshold": None if ruled else config.threshold,
        "kept": kept_share(by_shard, all_shards=sample.all_shards),
        "pairs": round(sum(row.kept for row in rows) / sample.images * sample.of),
        "noise": {
            source: metrics[name]
            for source in ("web", "synthetic")
            if (name := f"capfilt/noise_ratio_{source}") in metrics
        },
        "images_per_second": rate,
        "seconds": sample.of / rate,
    }


def _precision(human: "Estimate | None", rows: "Sequence[Candidate]", truth: "Mapping[str, Truth]") -> "dict[str, Any]":
    """How many of the kept texts fit: of the web's where the truth is known, else as human captions have it."""
    from components.evaluation.dataset import MATCH, UNKNOWN_KINDS
    from components.regeneration.pilot import counted_share

    kinds = [truth[row.key].kind for row in rows if row.kept and row.source == "web" and row.key in truth]
    known = [kind for kind in kinds if kind not in UNKNOWN_KINDS]
    if known:
        return {"precision": counted_share(known.count(MATCH), len(known)), "precision_by": "the truth of web texts"}
    return {} if human is None else {"precision": human, "precision_by": "human captions"}


def _cost(captioner: str, config: "CapfiltConfig", sample: "Sample", target: "Store") -> dict[str, int]:
    """Requests and tokens of the whole, where a server captions: by the answers that are kept beside the dataset."""
    from components.common.storage import open_store
    from components.inference.families import is_endpoint
    from components.regeneration.worker import answers_of

    if not is_endpoint(captioner):
        return {}
    answers = open_store(answers_of(target.uri))
    tokens = [int(json.loads(answers.read(one.key))["tokens"]) for one in answers.list()]
    requests = round(len(sample.shard_of) / sample.images * sample.of * config.captions_per_image)
    return {"requests": requests} | ({"tokens": round(sum(tokens) / len(tokens) * requests)} if tokens else {})


def _published(
    found: dict[str, Any], target: "Store", made: str, sample: "Sample", truth: "Mapping[str, Truth]"
) -> "PilotResult":
    """Write page and figures; the sample's dataset goes with its folder."""
    from components.common.contracts import DatasetRef
    from components.common.storage import join_uri, open_store
    from components.data.manifest import dataset_ref
    from components.data.records import pretty
    from components.pages.gallery import pick_examples
    from components.pages.pilot import render_pilot
    from components.regeneration.pilot import PilotResult

    place = open_store(f"{target.uri}.pilot")
    result = PilotResult(**found, page=join_uri(place.uri, "pilot.html"))
    drawn = DatasetRef(name="pilot", uri=sample.web.uri, digest=sample.web.digest, images=len(sample.shard_of), pairs=0)
    examples = pick_examples(dataset_ref(made), drawn, count=EXAMPLES, truth=truth)
    place.write("pilot.html", render_pilot(result, target.uri.rpartition("/")[2], examples).encode())
    place.write("pilot.json", pretty(result.model_dump(mode="json")))
    return result
