"""What is known of a round's model, in markdown: its description in MLflow and its README."""

from collections.abc import Iterator

from components.common.contracts import BootstrapResult, DatasetRef, Interval, ModelRef, ModelRole, RoundResult
from components.common.metrics import metric
from components.pages.scores import measured_on

ABOUT: dict[ModelRole, str] = {
    "base": "Pre-trained on web and human pairs (ITC, ITM, LM): its round's captioner and filter start from it.",
    "captioner": "Writes a caption for every web image: a pre-trained model finetuned on human captions (LM).",
    "vqa": "Answers questions about images: a pre-trained model finetuned on annotators' answers.",
    "retrieval": "Finds images by texts and texts by images: a pre-trained model finetuned on human captions.",
    "filter": "Says whether a text fits its image: a pre-trained model finetuned on human captions (ITC, ITM).",
}
ALIASES = (
    "Alias `champion`: of the round that did best, of all bootstraps. `challenger`: of the newest round. One version "
    "per model; why an alias moved stands at the version it moved to (`champion.reason`)."
)
_USES: dict[ModelRole, str] = {
    "base": "capfilt retrieval --model {place} --annotations CAPTIONS.json --images FOLDER",
    "retrieval": "capfilt retrieval --model {place} --annotations CAPTIONS.json --images FOLDER",
    "captioner": "capfilt caption --model {place} IMAGE",
    "vqa": 'capfilt ask --model {place} "QUESTION" IMAGE',
    "filter": 'capfilt match --model {place} --text "TEXT" IMAGE',
}
SHOWN = 12  # figures


def model_card(result: BootstrapResult, one: RoundResult, model: ModelRef) -> str:
    """A model's card."""
    place = within(result, model.uri)
    winner = ", the champion of its bootstrap" if one.round == result.champion else ""
    lines = [
        f"The {model.role} of round {one.round} of {result.label}{winner}. {ABOUT[model.role]}",
        "",
        *(f"- {line}" for line in _origin(result, one, model)),
        f"- lies in the store at `{place}`, digest `{model.digest[:32]}`; use it there: "
        f"`{_USES[model.role].format(place=place)}`",
        "",
        *_figures(result, one, model),
    ]
    return "\n".join(lines).strip()


def within(result: BootstrapResult, uri: str) -> str:
    """A place in the store relative to it, as stores are moved; one elsewhere as it is."""
    return uri.removeprefix(f"{result.store.rstrip('/')}/")


def _origin(result: BootstrapResult, one: RoundResult, model: ModelRef) -> Iterator[str]:
    human = result.raw.train
    if model.role == "base":
        yield f"trained on {_named(one.web)} and {_named(human)}"
        yield f"model and settings: `model` and `pretrain` of the bootstrap's config, seed {result.config.get('seed')}"
    else:
        data = "the questions of the config" if model.role == "vqa" else _named(human)
        yield f"finetuned from the base model of its round (`{one.base.digest[:32]}`) on {data}"
        yield f"the base model was trained on {_named(one.web)} and {_named(human)}"
        yield f"settings: `{model.role}` of the bootstrap's config, seed {result.config.get('seed')}"


def _named(dataset: DatasetRef) -> str:
    return f"`{dataset.name}` ({dataset.images:,} images, {dataset.pairs:,} pairs, version `{dataset.digest[:12]}`)"


def _figures(result: BootstrapResult, one: RoundResult, model: ModelRef) -> list[str]:
    """Its main figures with intervals, and what they were measured on."""
    rows: list[str] = []
    for name, value in one.metrics.items():
        data = measured_on(result, one, model, name)
        if data is not None and len(rows) < SHOWN:
            interval = one.uncertainty.values.get(name) if one.uncertainty is not None else None
            rows.append(f"| {metric(name).label} | {value:.4f} | {_between(interval)} | `{data.name}` |")
    return ["| figure | | interval | on |", "|---|---:|---|---|", *rows] if rows else []


def _between(interval: Interval | None) -> str:
    return f"{interval.low:.3f}–{interval.high:.3f}" if interval is not None else ""
