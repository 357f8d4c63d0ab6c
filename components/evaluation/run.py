"""One round measured: captions of the human test images against their references, retrieval both ways.

The same code, the same images and no randomness in every round, so that rounds can be compared.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.common.contracts import DatasetRef, EvalReport, ModelRef
from components.common.errors import DataError
from components.common.progress import Progress
from components.common.seeding import digest_of
from components.common.storage import Store, join_uri
from components.common.tracking import Tracker
from components.data.loader import EvalImage, load_eval_set
from components.evaluation.captions import cider_scores, tokenized_metrics
from components.evaluation.config import EvaluationConfig
from components.evaluation.ptb import tokenize
from components.evaluation.retrieval import RetrievalResult, RetrievalTask, owners_of, retrieval_metrics
from components.inference.arithmetic import Arithmetic, pick_device
from components.inference.captioner import Captioner
from components.inference.filter import Filter
from components.inference.memory import batches, with_halving
from components.inference.squares import squares_of
from components.model.blip import BlipCaptioner, BlipFilter
from components.model.checkpoints.publishing import fetch_model
from components.model.checkpoints.weights import LoadedModel, load_captioner, load_filter

REVISION = 2  # counts changes of what the same models and test split are measured to have
Advance = Callable[[int], None]


def run_evaluation(
    captioner: ModelRef,
    filter: ModelRef,
    test: DatasetRef,
    config: EvaluationConfig,
    *,
    round: int,
    store: Store,
    tracker: Tracker,
    work_dir: Path,
    progress: Progress | None = None,
) -> EvalReport:
    """Measure a captioner and a filter on the test split.

    Returns:
        `eval/caption/…` and `eval/retrieval/…`; its `uri` is a JSON with captions, scores and ranks per image.

    Raises:
        DataError: the test split is empty or lacks captions.
        ModelError: a model folder does not load, or its outputs are not finite.
    """
    samples = _samples(test, config)
    models = work_dir / "models"
    with progress or Progress(2 * len(samples), "image passes", f"round-{round}/evaluate") as bar:
        loaded_captioner = load_captioner(fetch_model(captioner.uri, models, digest=captioner.digest))
        texts = caption_images(loaded_captioner, samples, config, bar.advance)
        del loaded_captioner
        loaded_filter = load_filter(
            fetch_model(filter.uri, models, digest=filter.digest), position_zero=config.position_zero
        )
        retrieval = measure_retrieval(loaded_filter, samples, config, bar.advance)
    metrics, scores = _caption_scores(samples, texts)
    metrics |= {f"eval/retrieval/{name}": value for name, value in retrieval.metrics.items()}
    details = {
        "round": round,
        "captioner": captioner.digest,
        "filter": filter.digest,
        "test": test.digest,
        "config": config.model_dump(mode="json"),
        "metrics": metrics,
        "images": _details(samples, texts, scores, retrieval),
    }
    tracker.log_dataset(test, "test")
    tracker.log_metrics(metrics, step=round)
    return EvalReport(round=round, metrics=metrics, uri=_store_details(store, round, details))


def run_base_evaluation(
    base: ModelRef,
    test: DatasetRef,
    config: EvaluationConfig,
    *,
    round: int,
    store: Store,
    tracker: Tracker,
    work_dir: Path,
) -> EvalReport:
    """Measure the retrieval of a base model as pre-training leaves it, on the same test split: zero-shot.

    Returns:
        `base/…`, named as the filter's own recalls; its `uri` is a JSON with ranks per image.

    Raises:
        DataError: the test split is empty or lacks captions.
        ModelError: the model folder does not load, or its outputs are not finite.
    """
    samples = _samples(test, config)
    with Progress(len(samples), "images", f"round-{round}/evaluate-base") as bar:
        folder = fetch_model(base.uri, work_dir / "models", digest=base.digest)
        found = measure_retrieval(load_filter(folder, position_zero=config.position_zero), samples, config, bar.advance)
    metrics = {f"base/{name}": value for name, value in found.metrics.items()}
    details = {
        "round": round,
        "base": base.digest,
        "test": test.digest,
        "config": config.model_dump(mode="json"),
        "metrics": metrics,
        "images": _ranks(samples, found),
    }
    tracker.log_dataset(test, "test")
    tracker.log_metrics(metrics, step=round)
    return EvalReport(round=round, metrics=metrics, uri=_store_details(store, round, details))


def _samples(test: DatasetRef, config: EvaluationConfig) -> list[EvalImage]:
    samples = load_eval_set(test)[: config.limit]
    if not samples:
        raise DataError(f"{test.uri}: the test split has no images to measure on")
    return samples


def caption_images(
    loaded: LoadedModel[BlipCaptioner], samples: Sequence[EvalImage], config: EvaluationConfig, advance: Advance
) -> list[str]:
    """One caption per image, by the search of the config."""
    captioner = Captioner(loaded, config.decoding, _arithmetic(config))

    def describe(part: Sequence[int]) -> list[str]:
        return captioner.describe(squares_of([samples[number] for number in part], captioner.size))

    captions: list[str] = []
    for batch in batches(len(samples), config.caption_batch):
        captions += with_halving(describe, batch)
        advance(len(batch))
    return captions


def measure_retrieval(
    loaded: LoadedModel[BlipFilter], samples: Sequence[EvalImage], config: EvaluationConfig, advance: Advance
) -> RetrievalResult:
    """Retrieval both ways between images and all their captions."""
    words, tokens = config.retrieval.max_words, config.retrieval.max_tokens
    filter = Filter(loaded, _arithmetic(config), max_words=words, max_tokens=tokens)
    ids, mask = filter.encode([filter.read(text) for sample in samples for text in sample.captions])
    task = RetrievalTask(
        images=len(samples),
        squares=lambda start, stop: squares_of(samples[start:stop], filter.size),
        ids=ids,
        mask=mask,
        owners=owners_of([len(sample.captions) for sample in samples]),
    )
    return retrieval_metrics(filter, task, config.retrieval, advance)


def _arithmetic(config: EvaluationConfig) -> Arithmetic:
    return Arithmetic(pick_device(), config.precision, fp32_weights=True)


def _caption_scores(samples: Sequence[EvalImage], captions: Sequence[str]) -> tuple[dict[str, float], list[float]]:
    """Metrics under `eval/caption/`, and CIDEr per image."""
    candidates = [tokenize(text) for text in captions]
    references = [[tokenize(text) for text in sample.captions] for sample in samples]
    named = tokenized_metrics(references, candidates)
    metrics = {f"eval/caption/{name.lower().replace('-', '_')}": value for name, value in named.items()}
    # Falls towards 0 when a captioner says the same of every image, long before the other metrics tell why.
    metrics["eval/caption/distinct_captions"] = len(set(captions)) / len(captions)
    return metrics, cider_scores(references, candidates)


def _details(
    samples: Sequence[EvalImage], captions: Sequence[str], scores: Sequence[float], retrieval: RetrievalResult
) -> list[dict[str, Any]]:
    """Per image: what was written, what people wrote, CIDEr, and ranks."""
    return [
        {**ranks, "caption": caption, "cider": round(score, 6)}
        for ranks, caption, score in zip(_ranks(samples, retrieval), captions, scores, strict=True)
    ]


def _ranks(samples: Sequence[EvalImage], retrieval: RetrievalResult) -> list[dict[str, Any]]:
    """Per image: what people wrote, and where retrieval ranks the right answers (null: not among the candidates)."""
    ranks = iter(retrieval.image_ranks)
    return [
        {
            "key": sample.key,
            "references": list(sample.captions),
            "text_rank": _rank(text_rank),
            "image_ranks": [_rank(next(ranks)) for _ in sample.captions],
        }
        for sample, text_rank in zip(samples, retrieval.text_ranks, strict=True)
    ]


def _rank(rank: float) -> float | None:
    return None if math.isnan(rank) else rank


def _store_details(store: Store, number: int, details: dict[str, Any]) -> str:
    """Write the details under a name made of what they depend on; measured again, they are the same file."""
    inputs = {name: details[name] for name in ("captioner", "filter", "base", "test", "config") if name in details}
    key = f"evaluations/round-{number}-{digest_of(inputs)[:16]}.json"
    store.write(key, json.dumps(details, indent=1, ensure_ascii=False, sort_keys=True).encode())
    return join_uri(store.uri, key)
