"""The catalogue of metrics: what every figure is called, in what unit it is, and whether more of it is better.

Terminal, page, MLflow's pages, gate and verdict word a figure as it is worded here. Whatever is logged has an entry.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

Unit = Literal["share", "count", "plain"]
Direction = Literal[-1, 0, 1]

RECALL, CIDER, BLEU_4 = "eval/retrieval/mean_recall", "eval/caption/cider", "eval/caption/bleu_4"
VQA = "eval/vqa/accuracy_official"
PRIMARY = (RECALL, CIDER)
"""What every bootstrap is about: the verdict and, unless the config says otherwise, the gate look at these."""
HEADLINES = (*PRIMARY, VQA)
"""What the verdict speaks of: that, and answers where they are a task."""
BASE_RECALL = "base/mean_recall"
_COMPARED = ("eval/", "base/", "calibration/", "capfilt/", "truth/")
_ROLES = ("pretrain", "captioner", "filter", "retrieval", "vqa")


class Metric(NamedTuple):
    """A figure, or a family of them whose name ends in `<…>`."""

    name: str
    label: str
    unit: Unit
    better: Direction
    """1: more is better, -1: less is better, 0: neither"""
    about: str
    """one sentence"""
    short: str = ""
    """what it is called within a sentence"""

    @property
    def in_words(self) -> str:
        """What it is called within a sentence."""
        return self.short or self.label


def _retrieval() -> list[Metric]:
    ways = (("text", "image → text", "images whose own text"), ("image", "text → image", "texts whose own image"))
    return [
        Metric(RECALL, "retrieval, mean recall", "share", 1, "The mean of the six recalls.", short="retrieval recall"),
        *(
            Metric(
                f"eval/retrieval/{name}_recall_at_{k}",
                f"{label}, recall at {k}",
                "share",
                1,
                f"The share of {whose} is among the first {k} found."
                if k > 1
                else f"The share of {whose} is found first.",
            )
            for name, label, whose in ways
            for k in (1, 5, 10)
        ),
        Metric(
            "eval/retrieval/itc_mean_recall",
            "retrieval, mean recall before re-ranking",
            "share",
            1,
            "The mean recall by image-text similarity (ITC) alone.",
        ),
    ]


def _base_models() -> list[Metric]:
    """The filter's recalls over again, of the base model that no human captions alone have finetuned."""
    return [
        Metric(
            entry.name.replace("eval/retrieval/", "base/"),
            f"base model, {entry.label.removeprefix('retrieval, ')}",
            entry.unit,
            entry.better,
            f"{entry.about[:-1]}, by the base model as pre-training leaves it.",
        )
        for entry in _retrieval()
    ]


def _certainty() -> list[Metric]:
    """What MLflow draws of intervals: the metric's name, without `eval/`, stands in the middle."""
    return [
        Metric("interval/<metric>", "end of an interval", "plain", 0, "The lower or upper end of a metric's interval."),
        Metric("change/<metric>", "change since round 0", "plain", 0, "A metric's change, and its interval's ends."),
        Metric("champion/<metric>", "of a bootstrap's champion", "plain", 0, "A metric of the round that did best."),
    ]


def _captions() -> list[Metric]:
    return [
        Metric(
            CIDER,
            "captions, CIDEr",
            "plain",
            1,
            "How far captions say what people say of the same image, rare words counting more.",
            short="CIDEr",
        ),
        *(
            Metric(
                f"eval/caption/bleu_{n}",
                f"captions, BLEU-{n}",
                "plain",
                1,
                f"How many sequences of up to {n} words also stand in people's captions of the image."
                if n > 1
                else "How many words also stand in people's captions of the image.",
            )
            for n in (4, 3, 2, 1)
        ),
        Metric(
            "eval/caption/rouge_l",
            "captions, ROUGE-L",
            "plain",
            1,
            "The longest common run of words with people's captions of the image.",
        ),
        Metric(
            "eval/caption/distinct_captions",
            "captions, distinct",
            "share",
            0,
            "The share of captions that are not said of another test image too; near 0 the captioner has collapsed.",
        ),
    ]


def _answers() -> list[Metric]:
    return [
        Metric(
            VQA,
            "answers, VQA accuracy (official)",
            "share",
            1,
            "How far answers agree with annotators', by the scorer of VQA v2, which normalises only where they differ.",
            short="VQA accuracy",
        ),
        Metric(
            "eval/vqa/accuracy_any",
            "answers, given by any annotator",
            "share",
            1,
            "The share of answers that at least one annotator gave, all normalised.",
        ),
        Metric(
            f"{VQA}_<kind>",
            "answers, VQA accuracy (official), by kind",
            "share",
            1,
            "The same of questions with one kind of answer.",
        ),
    ]


def _calibration() -> list[Metric]:
    name, human = "calibration", "on human captions"
    return [
        Metric(
            f"{name}/threshold", "filter, threshold", "plain", 0, "The match probability from which the filter keeps."
        ),
        Metric(
            f"{name}/purity",
            f"filter, purity {human}",
            "share",
            1,
            "Of human captions under their own and under near images, the share of those it accepts that is right.",
        ),
        Metric(
            f"{name}/yield",
            f"filter, yield {human}",
            "share",
            1,
            "The share of human captions that the filter accepts under their own images.",
        ),
        Metric(
            f"{name}/error",
            f"filter, calibration error {human}",
            "share",
            -1,
            "How far the share of right texts is from what the filter says of them, in the mean over texts.",
        ),
    ]


def _regeneration() -> list[Metric]:
    def entry(name: str, label: str, unit: Unit, about: str, better: Direction = 0) -> Metric:
        return Metric(f"capfilt/{name}", label, unit, better, about)

    return [
        entry("noise_ratio_web", "web texts rejected", "share", "The share of the web's texts the filter rejected."),
        entry(
            "noise_ratio_synthetic",
            "synthetic texts rejected",
            "share",
            "The share of the captioner's texts the filter rejected.",
        ),
        entry("kept_pairs", "pairs kept by CapFilt", "count", "Image-text pairs of the regenerated dataset."),
        entry("dropped_pairs", "texts dropped by CapFilt", "count", "Texts that were rejected, doubled or unusable."),
        entry("kept_web", "web texts kept", "count", "Texts of the web in the regenerated dataset."),
        entry("kept_synthetic", "synthetic texts kept", "count", "Texts of the captioner in the regenerated dataset."),
        entry("images_in", "images read by CapFilt", "count", "Samples of the web data."),
        entry("images_kept", "images kept by CapFilt", "count", "Images with at least one kept text."),
        entry("dropped", "images without a kept text", "count", "Good images none of whose texts were kept."),
        entry("failed", "images that could not be used", "count", "Samples without a readable image, in all.", -1),
        entry("failed_<reason>", "images that could not be used, by reason", "count", "Lost for this reason.", -1),
        entry("web_<reason>", "web texts unusable, by reason", "count", "Good images whose web text is of no use."),
        entry("filtered_<filter>", "texts dropped by a text filter", "count", "Dropped before they were scored."),
        entry("distinct_1", "synthetic texts, distinct words", "share", "Different words by all words: variety."),
        entry("distinct_2", "synthetic texts, distinct pairs of words", "share", "Different pairs of words by all."),
        entry("top_caption_share", "synthetic texts, share of the commonest", "share", "How often it is said."),
        entry("mean_length", "synthetic texts, mean length", "plain", "Words per synthetic text."),
        entry("kept_weight", "weight of the pairs kept by CapFilt", "plain", "The sum of their weights, where set."),
        entry(
            "caption_<outcome>",
            "captions not ok, by outcome",
            "count",
            "Captions cut, empty, repeated, refused, and so on.",
        ),
        entry("cascade_itm_passes", "texts scored by ITM", "count", "Where a cascade spares some, and audited ones."),
        entry("cascade_itm_saved", "ITM passes saved", "share", "Of the texts, the share a cascade never gave to ITM."),
        entry("cascade_captions_written", "captions written", "count", "Where a cascade spares some."),
        entry("cascade_captions_saved", "captions saved", "share", "The share that a cascade never had written."),
        entry("cascade_audited", "images audited", "count", "Worked on in full, to see what a cascade changes."),
        entry(
            "cascade_changed", "decisions changed", "share", "Of audited texts: the cascade alone decides otherwise."
        ),
        entry("cascade_changed_<end>", "decisions changed, end of interval", "share", "With 95 % certainty."),
        entry("images_per_second", "CapFilt, images per second", "plain", "Speed of captioning and filtering.", 1),
    ]


def _truth() -> list[Metric]:
    def entry(name: str, label: str, about: str, better: Direction = 1, unit: Unit = "share") -> Metric:
        return Metric(f"truth/{name}", label, unit, better, about)

    return [
        entry("web_true_before", "web texts true, before", "The share of the web's texts that is true.", 0),
        entry("web_true", "web texts true, kept ones", "The share of the web's kept texts that is true."),
        entry("synthetic_true_before", "synthetic texts true, before", "The captioner's share of true texts."),
        entry("synthetic_true", "synthetic texts true, kept ones", "The same of those that are kept."),
        entry("web_facts_right_before", "facts right in web texts, before", "Of what a text says, the right share.", 0),
        entry("web_facts_right", "facts right in web texts, kept ones", "The same of texts the filter accepts."),
        entry(
            "synthetic_facts_right_before",
            "facts right in synthetic texts, before",
            "Of what a synthetic text says, the right share.",
        ),
        entry("synthetic_facts_right", "facts right in synthetic texts, kept", "The same of texts the filter accepts."),
        entry("facts_right_by_chance", "facts right by chance", "The same captions, each under another image.", 0),
        entry("pairs_true", "all kept texts true", "The share of the regenerated dataset's texts that is true."),
        entry("filter_precision", "filter precision", "Of the web texts the filter accepts, the share that is right."),
        entry("filter_recall", "filter recall", "Of the web texts that are right, the share the filter accepts."),
        entry("filter_auc", "filter ROC-AUC", "How well its scores part right web texts from wrong.", unit="plain"),
        entry("synthetic_recall", "true synthetic texts accepted", "Of the true ones, the share the filter accepts."),
        entry("rejected/<kind>", "wrong web texts rejected, by kind", "The share rejected of wrong texts of a kind."),
        entry("auc/<kind>", "filter ROC-AUC, by kind", "How well scores part right texts from a kind.", unit="plain"),
    ]


def _training(role: str) -> list[Metric]:
    def entry(name: str, label: str, better: Direction, about: str, unit: Unit = "plain") -> Metric:
        return Metric(f"{role}/{name}", label, unit, better, about)

    return [
        entry("loss", "total", -1, "The sum that is made small."),
        entry("loss_itc", "image–text contrast (ITC)", -1, "Cross-entropy of telling a pair's own text or image."),
        entry("loss_itm", "image–text matching (ITM)", -1, "Cross-entropy of telling pairs from near misses."),
        entry("loss_lm", "language model (LM), smoothed", -1, "Cross-entropy with smoothed labels; never 0."),
        entry("nll_lm", "language model (LM), nats per token", -1, "How surprising people's next word is."),
        entry("loss_vqa", "answers (VQA), smoothed", -1, "Weighted cross-entropy of answers with smoothed labels."),
        entry("nll_vqa", "answers (VQA), nats per question", -1, "How surprising annotators' answers are."),
        entry("itm_accuracy", "ITM accuracy", 1, "The share of pairs told right.", "share"),
        entry("itm_negatives", "wrong pairs drawn", 0, "The share of wrong pairs that could be drawn.", "share"),
        entry("temperature", "ITC temperature", 0, "How sharp the contrast is; it is learnt."),
        entry("queue_fill", "queue filled", 0, "The share of the momentum queue that holds features.", "share"),
        entry("grad_norm", "norm of the gradient", 0, "Before clipping."),
        entry("lr", "learning rate", 0, "Of the step."),
        entry("epoch", "epochs", 0, "Passes over the data so far."),
        entry("samples_per_second", "pairs per second", 1, "Of all processes together."),
        entry("seconds_per_step", "seconds per step", -1, "Of an optimizer step, waiting included."),
        entry("data_wait_share", "share of time waiting for data", -1, "Near 1 the loader is too slow.", "share"),
        entry("gpu_peak_gib", "GPU memory, peak GiB", -1, "Of the first process."),
        entry("model_flops_utilisation", "model FLOPs utilisation", 1, "Of the GPU's peak at this precision.", "share"),
    ]


CATALOGUE: tuple[Metric, ...] = (
    *_retrieval(),
    *_captions(),
    *_base_models(),
    *_certainty(),
    *_answers(),
    *_calibration(),
    *_regeneration(),
    *_truth(),
    *(entry for role in ("train", *_ROLES) for entry in _training(role)),
)
_EXACT = {entry.name: entry for entry in CATALOGUE if "<" not in entry.name}
_FAMILIES = [
    (re.compile(re.escape(entry.name.partition("<")[0]) + r".+"), entry) for entry in CATALOGUE if "<" in entry.name
]

TERMS: tuple[tuple[str, str, str], ...] = (
    ("truth/web_true", "true", "everything a text says fits its image"),
    (
        "truth/synthetic_facts_right",
        "facts right",
        "the share of what it says (a colour, a shape, a place …) that does",
    ),
    ("truth/facts_right_by_chance", "by chance", "the same captions under other images"),
)
"""Words of labels that need saying what they mean: the metric with which they appear, the word, its meaning."""


def find_metric(name: str) -> Metric | None:
    """The entry of a name, or of the family it belongs to; None if nobody entered it."""
    return _EXACT.get(name) or next((entry for pattern, entry in _FAMILIES if pattern.fullmatch(name)), None)


def metric(name: str) -> Metric:
    """The entry of a name; what is not in the catalogue goes by its name."""
    return find_metric(name) or Metric(name, name, "plain", 0, "")


def measured() -> tuple[str, ...]:
    """Names of what is measured in every round, and so can decide which of them wins."""
    return tuple(name for name in _EXACT if name.startswith("eval/"))


def compared(metrics: Mapping[str, float]) -> dict[str, float]:
    """What rounds are compared by: without a training's own figures, whose curves are in the training's run."""
    return {name: value for name, value in metrics.items() if name.startswith(_COMPARED)}


def meanings(names: Iterable[str]) -> list[tuple[str, str]]:
    """The words that need explaining where these metrics are shown, with their meanings."""
    shown = set(names)
    return [(word, meaning) for name, word, meaning in TERMS if name in shown]


def change(values: Sequence[float | None], at: int) -> float | None:
    """How a figure moved since it was first measured: since round 0, for CapFilt's own since the first round it made.

    A user asks what all rounds together have brought, and small steps that add up should be seen to; so terminal, page
    and MLflow compare with the first figure rather than with the one before.

    Returns:
        the difference; None at the first figure itself, and where either is missing or not finite.
    """
    first = next((index for index, value in enumerate(values) if value is not None), None)
    if first is None or at <= first:
        return None
    before, after = values[first], values[at]
    if before is None or after is None or not math.isfinite(after - before):
        return None
    return after - before


OF_CAPFILT = (
    "capfilt/noise_ratio_web",
    "capfilt/noise_ratio_synthetic",
    "capfilt/kept_pairs",
    "capfilt/cascade_itm_saved",
    "capfilt/cascade_captions_saved",
    "capfilt/cascade_changed",
    "truth/web_true_before",
    "truth/web_true",
    "truth/synthetic_true_before",
    "truth/synthetic_true",
    "truth/web_facts_right_before",
    "truth/web_facts_right",
    "truth/synthetic_facts_right_before",
    "truth/synthetic_facts_right",
    "truth/facts_right_by_chance",
    "truth/pairs_true",
    "truth/filter_precision",
    "truth/filter_recall",
)
"""What is shown of a pass of CapFilt and of what it did to the data, in order."""
