"""One round measured: captions of the human test images against their references, retrieval both ways.

The same code, the same images and no randomness in every round, so that rounds can be compared.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.common.contracts import DatasetRef, EvalReport, ModelRef
from components.common.errors import DataError
from components.common.progress import Progress
from components.common.seeding import digest_of
from components.common.storage import Store, join_uri
from components.common.tracking import Tracker
from components.data.decoding import Pixels, decode_image, resize_square, to_pixels
from components.data.loader import EvalImage, load_eval_set
from components.evaluation.captions import cider_scores, tokenized_metrics
from components.evaluation.config import EvaluationConfig
from components.evaluation.ptb import tokenize
from components.evaluation.retrieval import RetrievalResult, RetrievalTask, owners_of, retrieval_metrics
from components.model.blip import BlipCaptioner, BlipFilter
from components.model.checkpoints.folder import Preprocessor
from components.model.checkpoints.publishing import fetch_model
from components.model.checkpoints.weights import LoadedModel, load_captioner, load_filter
from components.model.decoding import generate
from components.model.tokenizer import pre_caption

REVISION = 1  # counts changes of what the same models and test split are measured to have
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
    samples = load_eval_set(test)[: config.limit]
    if not samples:
        raise DataError(f"{test.uri}: the test split has no images to measure on")
    models = work_dir / "models"
    with progress or Progress(2 * len(samples), "image passes", f"round-{round}/evaluate") as bar:
        writer = load_captioner(fetch_model(captioner.uri, models, digest=captioner.digest))
        texts = caption_images(writer, samples, config, bar.advance)
        del writer
        judge = load_filter(fetch_model(filter.uri, models, digest=filter.digest), position_zero=config.position_zero)
        retrieval = measure_retrieval(judge, samples, config, bar.advance)
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


def caption_images(
    loaded: LoadedModel[BlipCaptioner], samples: Sequence[EvalImage], config: EvaluationConfig, advance: Advance
) -> list[str]:
    """One caption per image, by the search of the config."""
    device = _device()
    model = loaded.model.to(device).eval()
    prompt = loaded.tokenizer.prompt_ids(config.decoding.prompt)
    squares = _Squares(samples, loaded.preprocessor, device)
    captions: list[str] = []
    with _inference(config, device):
        for start in range(0, len(samples), config.caption_batch):
            kv = model.encode_images(squares(start, start + config.caption_batch))
            rows = generate(model, kv, prompt, config.decoding)
            captions += loaded.tokenizer.decode_batch(rows)
            advance(len(rows))
    return captions


def measure_retrieval(
    loaded: LoadedModel[BlipFilter], samples: Sequence[EvalImage], config: EvaluationConfig, advance: Advance
) -> RetrievalResult:
    """Retrieval both ways between images and all their captions."""
    device = _device()
    model = loaded.model.to(device).eval()
    texts = [pre_caption(text, config.retrieval.max_words) for sample in samples for text in sample.captions]
    batch = loaded.tokenizer.encode(texts, config.retrieval.max_tokens)
    task = RetrievalTask(
        images=len(samples),
        pixels=_Squares(samples, loaded.preprocessor, device),
        ids=batch.ids.to(device),
        mask=batch.mask.to(device),
        owners=owners_of([len(sample.captions) for sample in samples]),
    )
    with _inference(config, device):
        return retrieval_metrics(model, task, config.retrieval, advance)


def evaluate_retrieval(model: Path | str, test: DatasetRef, config: EvaluationConfig) -> dict[str, float]:
    """Recalls of any filter folder on a dataset: `text_recall_at_1` …, without prefix."""
    samples = load_eval_set(test)[: config.limit]
    loaded = load_filter(model, position_zero=config.position_zero)
    with Progress(len(samples), "images", "retrieval") as bar:
        return measure_retrieval(loaded, samples, config, bar.advance).metrics


class _Squares:
    """Test images, decoded when they are needed: `(start, stop)` to normalised pixels [B,3,S,S] on the device."""

    def __init__(self, samples: Sequence[EvalImage], preprocessor: Preprocessor, device: torch.device) -> None:
        self.samples, self.preprocessor, self.device = samples, preprocessor, device

    def __call__(self, start: int, stop: int) -> Tensor:
        squares = [self._square(sample) for sample in self.samples[start:stop]]
        batch = torch.stack([torch.from_numpy(square) for square in squares])
        return to_pixels(batch, self.preprocessor.mean, self.preprocessor.std, device=self.device)

    def _square(self, sample: EvalImage) -> Pixels:
        return resize_square(decode_image(sample.image), self.preprocessor.size)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def _inference(config: EvaluationConfig, device: torch.device) -> Iterator[None]:
    """No gradients, and bf16 autocast where the config asks for it."""
    bf16 = config.precision == "bf16"
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        yield


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
    """Per image: what was written, what people wrote, CIDEr, and ranks (null: not among the candidates)."""
    ranks = iter(retrieval.image_ranks)
    return [
        {
            "key": sample.key,
            "caption": caption,
            "references": list(sample.captions),
            "cider": round(score, 6),
            "text_rank": _rank(text_rank),
            "image_ranks": [_rank(next(ranks)) for _ in sample.captions],
        }
        for sample, caption, score, text_rank in zip(samples, captions, scores, retrieval.text_ranks, strict=True)
    ]


def _rank(rank: float) -> float | None:
    return None if math.isnan(rank) else rank


def _store_details(store: Store, number: int, details: dict[str, Any]) -> str:
    """Write the details under a name made of what they depend on; measured again, they are the same file."""
    inputs = {name: details[name] for name in ("captioner", "filter", "test", "config")}
    key = f"evaluations/round-{number}-{digest_of(inputs)[:16]}.json"
    store.write(key, json.dumps(details, indent=1, ensure_ascii=False, sort_keys=True).encode())
    return join_uri(store.uri, key)
