"""`capfilt regenerate`: CapFilt alone, over your own shards."""

from typing import Annotated, Any

import typer

from capfilt.cli.console import command
from capfilt.cli.options import CAPTIONING, Given, Json, Option, Shown, TextFilter, ThresholdOf, named_values
from components.common.contracts import CapfiltResult
from components.common.errors import ConfigError
from components.inference.families import CAPTIONERS, SCORERS
from components.regeneration.config import CapfiltConfig

ANY_MODEL = "a model folder, or its name on the Hugging Face hub, of one of the families"
CAPTIONER = f"Captioner: {ANY_MODEL}, {', '.join(CAPTIONERS)}; or a server, http://HOST:PORT/v1#MODEL."
SETTINGS = Shown(
    CapfiltConfig,
    Option("threshold", default=None),
    Option(
        "target_precision",
        help="choose the threshold so that at least this share of the kept texts fits its image, as estimated on "
        "--calibration, where near captions of other images stand for wrong texts; stops if no threshold does",
    ),
    "calibrated",
    "calibration.bad_share",
    "policy",
    "text",
    "score",
    "keep",
    "weigh",
    *CAPTIONING,
    "batch_size",
    "image_size",
    "position_zero",
    "engine",
    "workers",
    "limit",
    Option("endpoint.concurrency"),
    Option("endpoint.max_requests"),
    Option("endpoint.max_tokens", "--max-answer-tokens"),
)


@SETTINGS
def regenerate(
    web: Annotated[str, typer.Option(help="Folder or prefix with WebDataset tars, or a sealed dataset.")],
    captioner: Annotated[str, typer.Option(help=CAPTIONER)],
    filter: Annotated[str, typer.Option(help=f"Filter: {ANY_MODEL}, {', '.join(SCORERS)}.")],  # noqa: A002
    out: Annotated[str, typer.Option(help="Root of the new dataset: a folder or s3://bucket/prefix.")],
    given: Given[CapfiltConfig],
    extend: Annotated[
        str | None,
        typer.Option(
            help="A dataset made of earlier web data with the same models and settings: its shards are taken over, "
            "only new or changed ones are worked on."
        ),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="A further scorer, NAME=PLACE, once for each: its score is a column NAME of the candidate tables, "
            "and can be asked for in --keep and --weigh."
        ),
    ] = None,
    threshold_of: ThresholdOf = None,
    text_filter: TextFilter = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="--target-precision, --calibrated: COCO or Karpathy JSON the filter was not trained on."),
    ] = None,
    calibration_images: Annotated[
        str | None,
        typer.Option(
            help="--target-precision, --calibrated: folder that the file names of --calibration are relative to."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """CapFilt over your own shards with any captioner and filter; run again, it goes on where it stopped."""
    with command(as_json=as_json) as output:
        human = _calibration_files(given, calibration, calibration_images)
        config = given.config(
            threshold_of=named_values(threshold_of, "--threshold-of"),
            text_filters=named_values(text_filter, "--text-filter"),
        )
        from capfilt.api import regenerate as work

        models: dict[str, Any] = {"captioner": captioner, "filter": filter}
        models["scorers"] = named_values(scorer, "--scorer")
        result = work(web=web, **models, out=out, extend=extend, calibration=human, config=config)
        output.result(result.model_dump(mode="json"), _told(result))


def _calibration_files(
    given: Given[CapfiltConfig], annotations: str | None, images: str | None
) -> tuple[str, str] | None:
    """Annotations and image folder to choose the threshold by; None if it is not to be chosen.

    Raises:
        ConfigError: these options do not go together; says which to give.
    """
    if given["target_precision"] is None and given["calibrated"] is None:
        if annotations is not None or images is not None:
            raise ConfigError(
                "--calibration is for choosing a threshold or weights: give --target-precision, e.g. 0.95, or "
                "--calibrated too"
            )
        return None
    if given["threshold"] is not None and given["target_precision"] is not None:
        raise ConfigError("--threshold and --target-precision: give one of them, the other would be ignored")
    if annotations is None or images is None:
        raise ConfigError(
            "--target-precision and --calibrated measure the filter on human captions that it was not trained on: "
            "give --calibration captions.json and --calibration-images FOLDER"
        )
    return annotations, images


def _told(result: CapfiltResult) -> str:
    """The result for people: counts, place, figures."""
    ref = result.dataset
    figures = [f"{name}: {value:,.4g}" for name, value in sorted(result.metrics.items())]
    return "\n".join([f"{ref.images:,} images, {ref.pairs:,} pairs in {ref.uri}", *figures])
