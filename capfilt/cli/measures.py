"""`capfilt metrics` and `capfilt retrieval`: how good captions and a filter are."""

import tempfile
from typing import Annotated

import typer

from capfilt.cli.console import command
from capfilt.cli.options import Given, Json, Model, Option, Shown
from components.evaluation.config import EvaluationConfig

RETRIEVAL = Shown(
    EvaluationConfig,
    Option("retrieval.top_k", default=128),
    "limit",
    Option("precision", "--dtype"),
    Option("position_zero", default="enc", help="first token of the texts: enc (as trained) or cls (BLIP's demo)"),
)


def metrics(
    references: Annotated[str, typer.Option(help="COCO captions JSON with the human captions.")],
    predictions: Annotated[str, typer.Option(help="COCO results JSON: [{image_id, caption}].")],
    as_json: Json = False,
) -> None:
    """BLEU-1 … 4, ROUGE-L and CIDEr of captions, as pycocoevalcap has them, without Java."""
    with command(as_json=as_json) as out:
        from components.evaluation.captions import caption_metrics, load_predictions, load_references

        scores = caption_metrics(load_references(references), load_predictions(predictions))
        out.result(scores, "\n".join(f"{name:8} {value:.4f}" for name, value in scores.items()))


@RETRIEVAL
def retrieval(
    model: Model,
    annotations: Annotated[str, typer.Option(help="COCO captions JSON or Karpathy JSON of the test split.")],
    images: Annotated[str, typer.Option(help="Folder that its file names are relative to.")],
    given: Given[EvaluationConfig],
    as_json: Json = False,
) -> None:
    """Recall at 1, 5 and 10 both ways: ITC over all pairs, then ITM re-ranking."""
    with command(as_json=as_json) as out:
        config = given.config()
        from components.common.metrics import metric
        from components.common.progress import Progress
        from components.common.storage import normalise_uri, open_store
        from components.data.coco import import_coco
        from components.data.views import load_eval_set
        from components.evaluation.run import measure_retrieval
        from components.model.checkpoints.publishing import fetch_model
        from components.model.checkpoints.weights import load_filter

        with tempfile.TemporaryDirectory(prefix="capfilt-") as scratch:
            test = import_coco(annotations, images, store=open_store(scratch), name="test", limit=config.limit)
            filter = load_filter(fetch_model(normalise_uri(model), scratch), position_zero=config.position_zero)
            samples = load_eval_set(test)
            with Progress(len(samples), "images", "retrieval") as bar:
                scores = measure_retrieval(filter, samples, config, bar.advance).metrics
        named = {metric(f"eval/retrieval/{name}").label: value for name, value in scores.items()}
        out.result(scores, "\n".join(f"{label:28} {value:.4f}" for label, value in named.items()))
