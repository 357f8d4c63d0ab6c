"""A made-up but realistic report: sample-world images, plausible figures. For tests and for looking at the page.

python -m tests.unit.pages.demo report.html
"""

import base64
import math
import random
import sys
from datetime import datetime
from pathlib import Path

from components.common.contracts import Calibration, DatasetRef, ModelRef, StageReport
from components.data.sampleworld.drawing import draw_scene, encode_jpeg
from components.data.sampleworld.language import human_caption
from components.data.sampleworld.scene import sample_scene
from components.data.sampleworld.webtext import KINDS, web_text
from components.pages.report import CapfiltReport, Example, ExampleText, ReportData, RoundReport, write_report
from components.pages.report_data import CaptionedImage, CaptionRounds, OtherBootstrap, Texts, Told
from components.regeneration.purity import GRID, PurityCurve
from components.regeneration.weighing import reliability
from tests.helpers.ended import uncertain


def curve(rng, start, end, steps=600, noise=0.04):
    return tuple(
        (float(step), end + (start - end) * math.exp(-step / steps * 4) + rng.gauss(0, noise))
        for step in range(0, steps + 1, 5)
    )


def example(rng, number):
    scene = sample_scene(rng)
    kind = KINDS[number % len(KINDS)]
    image = encode_jpeg(draw_scene(scene, 112, rng), 88)
    score = rng.betavariate(6, 2) if kind == "match" else rng.betavariate(1, 5)
    written = human_caption(scene, rng) if rng.random() < 0.7 else human_caption(sample_scene(rng), rng)
    texts = [("web", web_text(kind, scene, rng), score), ("synthetic", written, rng.betavariate(3, 2))]
    return Example(
        key=f"{number:09d}",
        image="data:image/jpeg;base64," + base64.b64encode(image).decode(),
        kind=kind,
        texts=tuple(
            ExampleText(
                source=source,
                text=text,
                itm_probability=p,
                itc_similarity=p * 0.6 - 0.1,
                score=p,
                kept=p >= 0.5,
                reason="" if p >= 0.5 else "below_threshold",
                true=kind == "match" if source == "web" else None,
            )
            for source, text, p in texts
        ),
    )


def metrics(gain):
    recalls = {"text": (0.31, 0.62, 0.75), "image": (0.27, 0.58, 0.72)}
    flat = {
        f"eval/retrieval/{way}_recall_at_{k}": value + gain
        for way, values in recalls.items()
        for k, value in zip((1, 5, 10), values, strict=True)
    }
    flat |= {"eval/retrieval/mean_recall": sum(flat.values()) / 6, "eval/retrieval/itc_mean_recall": 0.44 + gain}
    flat |= {f"eval/caption/bleu_{n}": 0.62 - 0.12 * (n - 1) + gain for n in (1, 2, 3, 4)}
    flat |= {name.replace("eval/retrieval/", "base/"): value - 0.2 for name, value in flat.items()}
    return flat | {
        "eval/caption/rouge_l": 0.49 + gain,
        "eval/caption/cider": 0.94 + 4 * gain,
        "eval/caption/distinct_captions": 0.55 + gain,
    }


WEB = DatasetRef(
    name="web-capfilt-1", uri="/data/store/datasets/web-capfilt-1/9b1", digest="d" * 64, images=2011, pairs=2851
)


def texts(rng, source, kept, dropped):
    lengths = {words: (rng.randrange(300), rng.randrange(300)) for words in range(2, 14)}
    scores = tuple((rng.randrange(90) if at >= 20 else 0, rng.randrange(90) if at < 20 else 0) for at in range(40))
    said = (("a red disc", 40, 12), ("a dog " * 12, 9, 0)) if source == "synthetic" else ()
    return Texts(
        source=source, texts=kept + dropped, kept=kept, distinct=900, lengths=lengths, scores=scores, repeated=said
    )


def pinned(images, rng, made_by):
    """The same images as another pass judges them."""
    return tuple(
        one.model_copy(
            update={
                "texts": tuple(
                    text.model_copy(
                        update={"kept": kept, "reason": "" if kept else "below_threshold", "true": made_by % 2 == 0}
                    )
                    for text, kept in ((text, rng.random() < 0.5) for text in one.texts)
                )
            }
        )
        for one in images
    )


def capfilt(rng, made_by, examples=9, images=None):
    gain = 0.05 * made_by
    shown = tuple(example(rng, i) for i in range(examples)) if images is None else pinned(images, rng, made_by)
    wrong = tuple(one.model_copy(update={"texts": one.texts[:1]}) for one in shown[:3])
    return CapfiltReport(
        made_by=made_by,
        dataset=WEB,
        images_in=2500,
        texts=(texts(rng, "web", 1202, 1298), texts(rng, "synthetic", 1649, 840)),
        outcomes={"cut": 4} if made_by == 0 else {},
        wrongly_kept=wrong,
        wrongly_refused=wrong[:2],
        mistakes=(331, 204),
        metrics={
            "capfilt/noise_ratio_web": 0.52 + gain / 4,
            "capfilt/noise_ratio_synthetic": 0.34 - gain,
            "capfilt/kept_pairs": 2851 + 120 * made_by,
            "truth/web_true_before": 0.45,
            "truth/web_true": 0.78 + gain,
            "truth/synthetic_true_before": 0.22 + gain,
            "truth/synthetic_true": 0.31 + gain,
            "truth/pairs_true": 0.55 + gain,
            "truth/filter_precision": 0.78 + gain,
            "truth/filter_recall": 0.83 + gain,
            "truth/filter_auc": 0.88 + gain / 2,
            "truth/rejected/junk": 0.97,
            "truth/rejected/alt-text": 0.93,
            "truth/rejected/other-image": 0.81 + gain,
            "truth/rejected/half-right": 0.46 + gain,
        },
        failed={"not_an_image": 7, "truncated": 3, "too_many_pixels": 1} if made_by == 0 else {},
        dropped={"below_threshold": 2122, "duplicate": 14, "empty_text": 5},
        examples=shown,
    )


def captions(rng, rounds):
    """Test images as every round captions them."""

    def image(number):
        said = [
            Told(
                round=k,
                text=("a red disc beside a star", "a blue disc")[(number + k) % 2] if number else "a red disc",
                cider=rng.random() * 3,
                rank=float((number + k) % 3),
                true=(number + k) % 2 == 0,
                facts=(3, 4),
            )
            for k in range(rounds)
        ]
        people = ("a red disc beside a large star", "a star and a disc on a teal ground")
        return CaptionedImage(
            key=f"test_{number:06d}", image=example(rng, number).image, references=people, told=tuple(said)
        )

    cards = tuple(image(number) for number in range(6))
    return CaptionRounds(
        dataset="/data/store/datasets/human-test/a1",
        images=300,
        rounds=(0, rounds - 1),
        won=cards[:3] if rounds > 1 else (),
        lost=cards[3:5] if rounds > 1 else (),
        pinned=cards,
        better=180,
        worse=101,
        repeated=((("a red disc", 7),), *[()] * (rounds - 1)),
    )


OTHERS = (
    OtherBootstrap(
        label="sample-cdcdcdcd",
        finished=datetime(2025, 3, 6, 9, 30),
        rounds=2,
        champion=0,
        metrics={"eval/retrieval/mean_recall": 0.51, "eval/caption/cider": 0.9},
        word="within noise",
        differs=(("capfilt.threshold", "0.7", "0.5"), ("seed", "1", "0")),
    ),
    OtherBootstrap(label="sample-efefefef", finished=datetime(2025, 3, 5, 9, 30), rounds=1, champion=None, metrics={}),
)


def passes(rng, count):
    """CapFilt passes over the same images."""
    found = [capfilt(rng, 0)] if count else []
    found += [capfilt(rng, k, images=found[0].examples) for k in range(1, count)]
    return tuple(found)


def alone():
    """The page of CapFilt without rounds."""
    one = capfilt(random.Random(3), 0).model_copy(update={"made_by": None})
    return ReportData(
        name="mine",
        capfilt=(one,),
        config={"threshold": 0.5},
        facts={"dataset": WEB.uri, "made from": "/data/shards"},
        commands=(("Look at every text", f"capfilt browse {WEB.uri}"),),
    )


def calibration(rng, number, target=None):
    right, wrong = ([rng.betavariate(*shape) for _ in range(500)] for shape in ((4 + number, 0.9), (0.8, 1.6)))
    curve = PurityCurve(right, wrong)
    bins, error = reliability(right, wrong, 0.5)
    return Calibration(
        filter="f" * 64,
        human="e" * 64,
        chosen=curve.at(0.5) if target is None else curve.least(target),
        target=target,
        reached=True,
        curve=tuple(curve.points(GRID)),
        images=100,
        positives=500,
        negatives=500,
        bad_share=0.5,
        reliability=bins,
        error=error,
    )


def demo(rounds=2):
    rng = random.Random(7)
    gains = [0.06 * (1 - 0.5**k) * 2 for k in range(rounds)]
    digest = "3fa9c1d2e8b74a60" * 4
    parts = []
    for k, gain in enumerate(gains):
        name = "web" if k == 0 else f"web-capfilt-{k}"
        parts.append(
            RoundReport(
                round=k,
                metrics=metrics(gain),
                uncertainty=uncertain(
                    metrics(gain),
                    {name: (value - metrics(0)[name], 0.04) for name, value in metrics(gain).items()} if k else {},
                ),
                curves={
                    "pretrain/loss_itc": curve(rng, 8.2, 5.1 - 4 * gain),
                    "pretrain/loss_itm": curve(rng, 0.64, 0.42 - gain, noise=0.01),
                    "pretrain/nll_lm": curve(rng, 6.4, 1.9 - 3 * gain, noise=0.03),
                    "captioner/nll_lm": curve(rng, 2.0, 1.0 - gain, steps=200, noise=0.02),
                    "filter/loss_itc": curve(rng, 4.9, 3.8 - gain, steps=200, noise=0.02),
                    "filter/loss_itm": curve(rng, 0.45, 0.31 - gain, steps=200, noise=0.01),
                },
                datasets=(
                    DatasetRef(
                        name=name, uri=f"/data/store/datasets/{name}/9b1", digest=digest, images=2500, pairs=2851
                    ),
                    DatasetRef(
                        name="human-train", uri="s3://bucket/run/human-train/07e", digest=digest, images=400, pairs=2000
                    ),
                ),
                models=tuple(
                    ModelRef(
                        role=role, uri=f"/data/store/models/round-{k}/{role}", digest=digest, registered_version=k + 1
                    )
                    for role in ("base", "captioner", "filter")
                ),
                calibration=calibration(random.Random(k), k, 0.95 if k == 1 else None),
                drift="at threshold 0.5 the filter’s yield went up: it has become better" if k == 1 else "",
            )
        )
    stages = [
        StageReport(stage="import", seconds=6.2, cached=False),
        *(
            StageReport(stage=f"round-{k}/{stage}", seconds=seconds, cached=k == 0 and stage == "pretrain")
            for k in range(rounds)
            for stage, seconds in (
                ("pretrain", 141.0),
                ("captioner", 31.5),
                ("filter", 38.2),
                ("evaluate", 18.0),
                ("capfilt", 27.9),
            )
            if not (stage == "capfilt" and k == rounds - 1)
        ),
    ]
    return ReportData(
        name="sample",
        rounds=tuple(parts),
        capfilt=passes(rng, rounds - 1),
        captions=captions(rng, rounds),
        others=OTHERS,
        human_pairs=2000,
        commands=(
            (
                "Rewrite and clean your own shards with the winner",
                "capfilt regenerate --web WEB --captioner /data/store/models/c --filter /data/store/models/f --out OUT",
            ),
            ("Look at every text", f"capfilt browse {WEB.uri}"),
        ),
        links={"MLflow": "http://127.0.0.1:5000/#/experiments/1/runs"},
        stages=tuple(stages),
        champion=1 if rounds > 1 else 0,
        promoted=rounds > 1 or None,
        reasons=("better beyond noise: retrieval recall, CIDEr",) if rounds > 1 else (),
        config={
            "name": "sample",
            "seed": 0,
            "rounds": rounds - 1,
            "capfilt": {"threshold": 0.5, "policy": "keep_both"},
        },
        facts={"MLflow run": "0a5bc0ffee", "store": "/data/store", "code revision": "48e3690"},
        finished=datetime(2025, 3, 7, 14, 5),
    )


if __name__ == "__main__":
    write_report(demo(int(sys.argv[2]) if len(sys.argv) > 2 else 2), Path(sys.argv[1]))
