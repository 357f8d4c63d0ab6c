"""`capfilt regenerate`: CapFilt alone, over your own shards."""

import logging
from typing import Annotated, Any

import typer

from capfilt.cli.console import Output, command
from capfilt.cli.options import CAPTIONING, Given, Json, Option, Shown, TextFilter, ThresholdOf, named_values
from components.common.contracts import CapfiltResult
from components.common.errors import ConfigError
from components.common.programs import command_line
from components.inference.families import CAPTIONERS, SCORERS
from components.regeneration.config import CapfiltConfig

logger = logging.getLogger(__name__)

ANY_MODEL = "a model folder, or its name on the Hugging Face hub, of one of the families"
CAPTIONER = f"Captioner: {ANY_MODEL}, {', '.join(CAPTIONERS)}; or a server, http://HOST:PORT/v1#MODEL."
SETTINGS = Shown(
    CapfiltConfig,
    Option("threshold", default=None),
    Option(
        "target_precision",
        help="choose the threshold so that at least this share of the kept texts fits its image, as estimated on "
        "--calibration, where captions of images that look alike stand for wrong texts; stops if no threshold does",
    ),
    "calibrated",
    "calibration.bad_share",
    "policy",
    "text",
    "score",
    "keep",
    "weigh",
    Option("cascade.tolerance", "--cascade-tolerance", default=None),
    Option("cascade.sample", "--cascade-sample", default=None),
    Option("cascade.audit", "--cascade-audit", default=None),
    Option("cascade.web", "--cascade-web"),
    Option("cascade.synthetic", "--cascade-synthetic"),
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
    also=("threshold_of",),
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
    retry: Annotated[
        str | None,
        typer.Option(
            help="With --extend: captions of that dataset which ended so are asked for again, errors or more "
            "(errors,cut); all else in it is taken over as it is."
        ),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="A further scorer, NAME=PLACE, once for each: its score is a column NAME of the candidate tables, "
            "and can be asked for in --keep and --weigh."
        ),
    ] = None,
    cascade: Annotated[
        bool,
        typer.Option(
            "--cascade",
            help="Ask ITM only where ITC leaves the decision open, and for captions only where --policy fallback needs "
            "one; the bands are found on a sample. The other options of this name imply it.",
        ),
    ] = False,
    pilot: Annotated[
        int | None,
        typer.Option(
            min=20,
            help="Work on so many images of all shards and show what the whole would give, how long it would take and "
            "what it would cost, with a page of examples (OUT.pilot); no dataset is made.",
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(help="--pilot: parquet with key and kind of the web texts (match: it fits), where that is known."),
    ] = None,
    threshold_of: ThresholdOf = None,
    text_filter: TextFilter = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="--target-precision, --calibrated, --pilot: COCO or Karpathy JSON the filter was not trained on."
        ),
    ] = None,
    calibration_images: Annotated[
        str | None,
        typer.Option(
            help="--target-precision, --calibrated, --pilot: folder that the file names of --calibration are relative "
            "to."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """CapFilt over your own shards with any captioner and filter; run again, it goes on where it stopped."""
    with command(as_json=as_json) as output:
        human = _calibration_files(given, calibration, calibration_images, piloting=pilot is not None)
        if truth is not None and pilot is None:
            raise ConfigError("--truth says how precise a --pilot is: give both, or neither")
        more: dict[str, Any] = {"cascade": {}} if cascade else {}
        more["threshold_of"] = named_values(threshold_of, "--threshold-of")
        more["text_filters"] = named_values(text_filter, "--text-filter")
        config = given.config(**more)
        from capfilt.cli.tables import rendered
        from components.inference.roles import check_roles

        swapped = command_line("regenerate", "--web", web, "--captioner", filter, "--filter", captioner, "--out", out)
        check_roles(captioner, filter, names=("--captioner", "--filter"), instead=f"{swapped}, and what else you gave")
        models: dict[str, Any] = {"captioner": captioner, "filter": filter}
        models["scorers"] = named_values(scorer, "--scorer")
        places: dict[str, Any] = {"web": web, **models, "out": out, "calibration": human}
        if pilot is not None:
            if extend is not None or retry is not None:
                raise ConfigError("--extend takes over what is finished, and a --pilot finishes nothing: give one")
            with given.in_options():
                _try_out(output, images=pilot, truth=truth, config=config, **places)
            return
        from capfilt.api import regenerate as work
        from capfilt.cli.results import told

        with given.in_options():
            result = work(**places, extend=extend, retry=retry, config=config)
        page = _page(result)
        document = result.model_dump(mode="json") | ({"report": page} if page else {})
        output.result(document, lambda: rendered(*told(result, page)))


def _page(result: CapfiltResult) -> str | None:
    """Where the page of the new dataset lies; None if it could not be written, which is told."""
    from components.common.errors import CapfiltError
    from components.pages.results import store_dataset_page

    ref = result.dataset
    try:
        return store_dataset_page(ref, metrics=result.metrics)
    except CapfiltError as error:
        logger.warning("no page was written: %s; `capfilt report %s` tries again", error, ref.uri)
        return None


def _try_out(output: Output, **asked: Any) -> None:
    """A pilot, and what it says."""
    from capfilt.cli.tables import facts, next_step, rendered
    from capfilt.piloting import pilot
    from components.pages.pilot import pilot_figures

    found = pilot(**asked)
    figures = {**dict(pilot_figures(found)), "page": found.page}
    after = next_step("look at the page, then the same command without --pilot")
    output.result(found.model_dump(mode="json"), lambda: rendered(facts(figures), "", after))


def _calibration_files(
    given: Given[CapfiltConfig], annotations: str | None, images: str | None, *, piloting: bool
) -> tuple[str, str] | None:
    """Annotations and image folder to choose the threshold by; None if it is not to be chosen.

    Raises:
        ConfigError: these options do not go together; says which to give.
    """
    if given["target_precision"] is None and given["calibrated"] is None:
        if piloting and annotations is not None and images is not None:
            return annotations, images
        if annotations is not None or images is not None:
            raise ConfigError(
                "--calibration is for choosing a threshold or weights: give --target-precision, e.g. 0.95, or "
                "--calibrated too; for --pilot give it with --calibration-images"
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
