"""The commands that need no bootstrap: regenerate, caption, match, metrics, retrieval."""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeVar, cast, get_args

import typer
from pydantic import BaseModel, ValidationError

from capfilt.cli.console import command
from components.common.errors import ConfigError

if TYPE_CHECKING:
    from components.common.contracts import Calibration, ModelRef
    from components.common.storage import Store
    from components.inference.arithmetic import AnyPrecision
    from components.regeneration.config import CapfiltConfig

M = TypeVar("M", bound=BaseModel)

Json = Annotated[bool, typer.Option("--json", help="Exactly one JSON document on stdout; logs go to stderr.")]
Model = Annotated[str, typer.Option(help="Model folder (Hugging Face form or ours), local or s3://.")]
Images = Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE")]
Dtype = Annotated[str, typer.Option(help="Arithmetic of the models: fp32, bf16, or auto: bf16 where it is faster.")]
Decoding = Annotated[str, typer.Option(help="How captions are written: greedy, beam or nucleus.")]
TopP = Annotated[float, typer.Option(help="nucleus: probability mass drawn from.")]
TopK = Annotated[int, typer.Option(help="nucleus: tokens drawn from at most; 0: no limit.")]
Beams = Annotated[int, typer.Option(help="beam: hypotheses kept.")]
MinLength = Annotated[int, typer.Option(help="Tokens at least, prompt included.")]
MaxLength = Annotated[int, typer.Option(help="Tokens at most, prompt and end included.")]
Penalty = Annotated[float, typer.Option("--repetition-penalty", help="Above 1 makes written tokens less likely.")]
Prompt = Annotated[str, typer.Option(help="How every caption starts; not part of the result.")]
Seed = Annotated[int, typer.Option(help="Seed of sampled captions.")]
PerImage = Annotated[int, typer.Option("--captions-per-image", min=1, max=64, help="Synthetic captions per image.")]
ImageSize = Annotated[Optional[int], typer.Option(help="Image side in pixels; default: the model's.")]  # noqa: UP045
PositionZero = Annotated[str, typer.Option(help="First token of matched texts: enc (as trained) or cls (BLIP's demo).")]


_OPTION = {"method": "decoding", "precision": "dtype"}  # settings whose option has another name


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for name in (regenerate, caption, match, metrics, retrieval):
        app.command()(name)


def regenerate(
    web: Annotated[str, typer.Option(help="Folder or prefix with WebDataset tars, or a sealed dataset.")],
    captioner: Annotated[str, typer.Option(help="Captioner: any BLIP captioning model folder.")],
    filter: Annotated[str, typer.Option(help="Filter: any BLIP image-text retrieval model folder.")],  # noqa: A002
    out: Annotated[str, typer.Option(help="Root of the new dataset: a folder or s3://bucket/prefix.")],
    threshold: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Match probability from which a text is kept; 0.5 if neither this nor a target is given."),
    ] = None,
    target_precision: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="Choose the threshold so that at least this share of the kept texts fits its image, as estimated on "
            "--calibration, where near captions of other images stand for wrong texts. Stops if no threshold does."
        ),
    ] = None,
    calibration: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="--target-precision: COCO captions JSON or Karpathy JSON the filter was not trained on."),
    ] = None,
    calibration_images: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="--target-precision: folder that the file names of --calibration are relative to."),
    ] = None,
    bad_share: Annotated[
        float, typer.Option(help="--target-precision: share of wrong texts to reckon with before filtering.")
    ] = 0.5,
    policy: Annotated[str, typer.Option(help="keep_both (paper), replace, best_of or fallback.")] = "keep_both",
    captions_per_image: PerImage = 1,
    decoding: Decoding = "nucleus",
    top_p: TopP = 0.9,
    top_k: TopK = 0,
    beams: Beams = 3,
    min_length: MinLength = 5,
    max_length: MaxLength = 20,
    repetition_penalty: Penalty = 1.0,
    prompt: Prompt = "a picture of ",
    seed: Seed = 0,
    dtype: Dtype = "auto",
    batch_size: Annotated[int, typer.Option(help="Images per batch; halved where memory runs out.")] = 32,
    image_size: ImageSize = None,
    position_zero: PositionZero = "enc",
    engine: Annotated[str, typer.Option(help="local, or ray (RAY_ADDRESS for a cluster).")] = "local",
    workers: Annotated[int, typer.Option(help="Processes that hold the models; 0: one per GPU, or one.")] = 0,
    limit: Annotated[Optional[int], typer.Option(min=1, help="First N images only, to try settings.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """CapFilt over your own shards with any BLIP checkpoints; run again, it goes on where it stopped."""
    with command(as_json=as_json) as output:
        human = _calibration_files(threshold, target_precision, calibration, calibration_images)
        from components.model.decoding import DecodingConfig
        from components.regeneration.config import CalibrationConfig, CapfiltConfig

        lengths = {"min_length": min_length, "max_length": max_length, "repetition_penalty": repetition_penalty}
        how = _checked(DecodingConfig, method=decoding, top_p=top_p, top_k=top_k, beams=beams, prompt=prompt, **lengths)
        speed = {"batch_size": batch_size, "engine": engine, "workers": workers, "precision": dtype}
        rules = {"policy": policy, "captions_per_image": captions_per_image, "limit": limit}
        rules |= {"threshold": 0.5 if threshold is None else threshold, "target_precision": target_precision}
        rules |= {"calibration": _checked(CalibrationConfig, bad_share=bad_share)}
        reading = {"image_size": image_size, "position_zero": position_zero}
        config = _checked(CapfiltConfig, seed=seed, decoding=how, **rules, **reading, **speed)
        from components.common.scratch import ScratchFolder
        from components.common.storage import open_store
        from components.model.checkpoints.publishing import reference_model
        from components.regeneration.calibration import settle
        from components.regeneration.run import run_capfilt

        target = open_store(out)
        target.check()
        judge, measured = reference_model(filter, "filter"), {}
        with ScratchFolder("regenerate") as folder:
            if human is not None:
                calibrated = _measure_filter(judge, human, config, target, folder)
                config, measured = settle(config, calibrated), calibrated.metrics
            result = run_capfilt(
                web,
                reference_model(captioner, "captioner"),
                judge,
                config,
                store=target,
                out=target,
                name=Path(target.uri).name,
                work_dir=folder,
            )
        result = result.model_copy(update={"metrics": measured | result.metrics})
        figures = "\n".join(f"{name}: {value:,.4g}" for name, value in sorted(result.metrics.items()))
        ref = result.dataset
        output.result(
            result.model_dump(mode="json"), f"{ref.images:,} images, {ref.pairs:,} pairs in {ref.uri}\n{figures}"
        )


def _calibration_files(
    threshold: float | None, target: float | None, annotations: str | None, images: str | None
) -> tuple[str, str] | None:
    """Annotations and image folder to choose the threshold by; None if it is not to be chosen.

    Raises:
        ConfigError: these options do not go together; says which to give.
    """
    if target is None:
        if annotations is not None or images is not None:
            raise ConfigError("--calibration is for choosing a threshold: give --target-precision too, e.g. 0.95")
        return None
    if threshold is not None:
        raise ConfigError("--threshold and --target-precision: give one of them, the other would be ignored")
    if annotations is None or images is None:
        raise ConfigError(
            "--target-precision measures the filter on human captions: give --calibration captions.json and "
            "--calibration-images FOLDER, of images that the filter was not trained on"
        )
    return annotations, images


def _measure_filter(
    filter: "ModelRef", human: tuple[str, str], config: "CapfiltConfig", out: "Store", folder: Path
) -> "Calibration":
    """The filter measured on annotations and images, once per output."""
    from components.common.storage import open_store
    from components.data.coco import import_coco
    from components.regeneration.calibration import remembered, run_calibration

    limit = config.calibration.images
    data = import_coco(*human, store=open_store(str(folder)), name="calibration", limit=limit)
    return remembered(out, filter, data, config, lambda: run_calibration(filter, data, config, work_dir=folder))


def caption(
    images: Images,
    model: Model,
    captions_per_image: PerImage = 1,
    decoding: Decoding = "nucleus",
    top_p: TopP = 0.9,
    top_k: TopK = 0,
    beams: Beams = 3,
    min_length: MinLength = 5,
    max_length: MaxLength = 20,
    repetition_penalty: Penalty = 1.0,
    prompt: Prompt = "a picture of ",
    seed: Seed = 0,
    dtype: Dtype = "auto",
    image_size: ImageSize = None,
    as_json: Json = False,
) -> None:
    """Write captions for images."""
    with command(as_json=as_json) as out:
        from components.common.seeding import key_seed
        from components.model.decoding import DecodingConfig

        lengths = {"min_length": min_length, "max_length": max_length, "repetition_penalty": repetition_penalty}
        how = _checked(DecodingConfig, method=decoding, top_p=top_p, top_k=top_k, beams=beams, prompt=prompt, **lengths)
        if captions_per_image > 1 and decoding != "nucleus":
            raise ConfigError(f"--decoding {decoding} writes one caption per image; use nucleus for several")
        data = _read_images(images)
        from components.inference.arithmetic import Arithmetic, pick_device
        from components.inference.captioner import Captioner
        from components.model.checkpoints.weights import load_captioner

        with _local_model(model) as folder:
            worker = Captioner(
                load_captioner(folder, image_size=image_size), how, Arithmetic(pick_device(), _dtype(dtype))
            )
            rows = []
            for path, content in data:
                digest = hashlib.sha256(content).hexdigest()
                seeds = [[key_seed(seed, digest, index) for index in range(captions_per_image)]]
                texts = worker.caption(_square(path, content, worker.size), seeds)[0]
                rows.append({"image": str(path), "captions": texts})
        lines = [f"{row['image']}: {text}" for row in rows for text in row["captions"]]
        out.result(rows, "\n".join(lines))


def match(
    images: Images,
    model: Model,
    text: Annotated[list[str], typer.Option(help="A text; may be repeated.")],
    position_zero: PositionZero = "enc",
    dtype: Dtype = "auto",
    image_size: ImageSize = None,
    as_json: Json = False,
) -> None:
    """How well texts fit images: probability of a match (ITM) and cosine (ITC)."""
    with command(as_json=as_json) as out:
        zero: Literal["enc", "cls"] = "cls" if position_zero == "cls" else "enc"
        if position_zero not in ("enc", "cls"):
            raise ConfigError(f"--position-zero {position_zero}: use enc or cls")
        data = _read_images(images)
        from components.inference.arithmetic import Arithmetic, pick_device
        from components.inference.filter import Filter
        from components.model.checkpoints.weights import load_filter

        with _local_model(model) as folder:
            loaded = load_filter(folder, image_size=image_size, position_zero=zero)
            worker = Filter(loaded, Arithmetic(pick_device(), _dtype(dtype)))
            rows = []
            for path, content in data:
                scores = worker.score(_square(path, content, worker.size), [text])[0]
                for words, score in zip(text, scores, strict=True):
                    row = {"image": str(path), "text": words}
                    rows.append(row | {"itm_probability": score.probability, "itc_similarity": score.similarity})
        lines = [
            f"{row['itm_probability']:.4f}  {row['itc_similarity']:+.4f}  {row['image']}  {row['text']}" for row in rows
        ]
        out.result(rows, "\n".join(["match   cosine", *lines]))


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


def retrieval(
    model: Model,
    annotations: Annotated[str, typer.Option(help="COCO captions JSON or Karpathy JSON of the test split.")],
    images: Annotated[str, typer.Option(help="Folder that its file names are relative to.")],
    top_k: Annotated[int, typer.Option(help="Candidates per query that ITM re-ranks.")] = 128,
    limit: Annotated[Optional[int], typer.Option(min=1, help="First N images only.")] = None,  # noqa: UP045
    dtype: Annotated[
        str, typer.Option(help="Arithmetic of the model: fp32, or bf16 for less exact and faster.")
    ] = "fp32",
    position_zero: PositionZero = "enc",
    as_json: Json = False,
) -> None:
    """Recall at 1, 5 and 10 both ways: ITC over all pairs, then ITM re-ranking."""
    with command(as_json=as_json) as out:
        from components.evaluation.config import EvaluationConfig, RetrievalConfig

        ranking = _checked(RetrievalConfig, top_k=top_k)
        config = _checked(
            EvaluationConfig, retrieval=ranking, limit=limit, precision=dtype, position_zero=position_zero
        )
        from components.common.storage import open_store
        from components.data.coco import import_coco
        from components.data.loader import load_eval_set
        from components.evaluation.run import measure_retrieval
        from components.model.checkpoints.weights import load_filter

        with tempfile.TemporaryDirectory(prefix="capfilt-") as scratch, _local_model(model) as folder:
            test = import_coco(annotations, images, store=open_store(scratch), name="test", limit=limit)
            loaded = load_filter(folder, position_zero=config.position_zero)
            scores = measure_retrieval(loaded, load_eval_set(test), config, lambda images: None).metrics
        out.result(scores, "\n".join(f"{name:20} {value:.4f}" for name, value in scores.items()))


@contextlib.contextmanager
def _local_model(uri: str) -> Iterator[Path]:
    """A model's folder on this machine, for as long as it is needed."""
    from components.common.scratch import ScratchFolder
    from components.common.storage import normalise_uri
    from components.model.checkpoints.publishing import fetch_model

    with ScratchFolder("model") as cache:
        yield fetch_model(normalise_uri(uri), cache)


def _checked(model: type[M], **values: Any) -> M:
    """A config from options; a bad value is bad usage, named by its option."""
    try:
        return model(**values)
    except ValidationError as error:
        names = [str(one["loc"][0]) if one["loc"] else "option" for one in error.errors()]
        options = [_OPTION.get(name, name).replace("_", "-") for name in names]
        faults = [f"--{option}: {one['msg']}" for option, one in zip(options, error.errors(), strict=True)]
        raise ConfigError("\n".join(faults)) from error


def _dtype(name: str) -> "AnyPrecision":
    """The arithmetic of an option's name."""
    from components.inference.arithmetic import AnyPrecision

    if name not in get_args(AnyPrecision):
        raise ConfigError(f"--dtype {name}: use {', '.join(get_args(AnyPrecision))}")
    return cast("AnyPrecision", name)


def _read_images(paths: Sequence[Path]) -> list[tuple[Path, bytes]]:
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ConfigError("\n".join(f"there is no file {name}" for name in missing))
    return [(path, path.read_bytes()) for path in paths]


def _square(path: Path, data: bytes, size: int) -> Any:
    """One image as `[1, S, S, 3]`."""
    from components.common.errors import DataError
    from components.data.decoding import decode_image, resize_square

    try:
        return resize_square(decode_image(data), size)[None]
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
