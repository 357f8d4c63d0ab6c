"""The Python API, which the command line itself calls. Heavy imports happen in the functions.

A place is a path, `file://…` or `s3://bucket/prefix`, or a `Path`; a model is a folder in Hugging Face form, trained
here or elsewhere. Settings are a `CapfiltConfig`, or its fields by keyword, e.g. `decoding={"method": "beam"}`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from components.common.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from capfilt.images import ImageLike
    from capfilt.searching import Hit
    from components.common.contracts import CapfiltResult, ModelRef
    from components.common.storage import Store
    from components.data.pipeline import Samples
    from components.inference.config import AskConfig
    from components.regeneration.config import CapfiltConfig
    from components.regeneration.policy import Policy, TextChoice
    from components.regeneration.textfilters import Setting

Place = str | PathLike[str]
M = TypeVar("M", bound="BaseModel")


class Captions(TypedDict):
    """An image and what was written about it."""

    image: str
    captions: list[str]


class Match(TypedDict):
    """How well a text fits an image: P(match) of the ITM head (0 … 1), and cosine of the ITC embeddings (-1 … 1)."""

    image: str
    text: str
    itm_probability: float
    itc_similarity: float


class Answer(TypedDict):
    """What a model answers to a question about an image."""

    image: str
    question: str
    answer: str


def regenerate(
    *,
    web: Place,
    captioner: Place,
    filter: Place,  # noqa: A002 - the role's name
    out: Place,
    extend: Place | None = None,
    retry: str | None = None,
    calibration: tuple[Place, Place] | None = None,
    scorers: Mapping[str, Place] | None = None,
    config: "CapfiltConfig | None" = None,
    **settings: Any,
) -> "CapfiltResult":
    """CapFilt over web shards with any captioner and filter; called again, it goes on where it stopped.

    Args:
        web: folder or prefix with WebDataset tars, or a sealed dataset.
        captioner: model that writes a caption for every image: a folder, or a name of the Hugging Face hub, BLIP or
            another family (docs/models.md); or a server, `http://HOST:PORT/v1#MODEL`.
        filter: model that says which texts, the web's and the written ones, fit their image; likewise.
        out: root of the new dataset. Its last part is the dataset's name.
        extend: a version made of earlier web data with the same models and settings: its shards are taken over, only
            new or changed ones are worked on, and the new version names it as a parent.
        retry: outcomes of captions in the version `extend` that are asked for again, `errors` or more (`errors,cut`);
            all else in it is taken over as it is.
        calibration: COCO captions JSON (or Karpathy JSON) and its image folder, which the filter was not trained on;
            for `target_precision`, the threshold is chosen by them, and for `calibrated` the weights.
        scorers: further scorers by the names that their scores shall have, for rules (`keep`, `weigh`) and for the
            record; each is a column of the candidate tables.
        config: settings.
        settings: fields of CapfiltConfig, in place of `config`.

    Returns:
        The dataset (uri, version, images and pairs that are left), and figures by name, `capfilt/…`.

    Raises:
        ConfigError: a setting is wrong, or `out` was begun with others.
        DataError: no shards, or they changed since.
        ModelError: a folder holds no such model.
        GateError: captions have collapsed, or no threshold reaches the target.
        StorageError: a place refuses; what is finished stays.
    """
    from components.common.scratch import ScratchFolder
    from components.common.storage import open_store
    from components.regeneration.run import run_capfilt

    config = _config(config, settings)
    if config.needs_calibration != (calibration is not None):
        raise ConfigError(
            "target_precision, or calibrated without weights, goes together with calibration (captions JSON, "
            "images): give both, or none"
        )
    target = open_store(fspath(out))
    target.check()
    writer, judge, others = referenced(captioner, filter, scorers or {})
    place: dict[str, Any] = {"store": target, "out": target, "name": target.uri.rpartition("/")[2], "scorers": others}
    place |= {"extend": None if extend is None else fspath(extend), "retry": retry}
    measured: dict[str, float] = {}
    with ScratchFolder("regenerate") as folder:
        if calibration is not None:
            config, measured = _calibrated(judge, calibration, config, target, folder)
        result = run_capfilt(fspath(web), writer, judge, config, **place, work_dir=folder)
    return result.model_copy(update={"metrics": measured | result.metrics})


def caption(
    model: Place, images: "Sequence[ImageLike]", *, config: "CapfiltConfig | None" = None, **settings: Any
) -> list[Captions]:
    """Write captions for images.

    Args:
        model: a captioner: a folder, or a name of the Hugging Face hub; BLIP, or another family (docs/models.md).
        images: files, or the bytes of files, or Pillow images.
        config: settings; `decoding`, `captions_per_image`, `seed`, `precision`, `image_size`, `batch_size` and the
            limits of images count.
        settings: fields of CapfiltConfig, in place of `config`.

    Returns:
        A row per image, in order: its path (or `image 0`, by its place, where it has none) and `captions_per_image`
        captions. They hang on the image's bytes and `seed` alone, not on the images beside it.

    Raises:
        ConfigError: a setting is wrong, or there is no such file.
        DataError: something is no image; says which.
        ModelError: there is no captioner.
    """
    from capfilt.images import batches, pictures, read_images
    from components.common.seeding import key_seed
    from components.common.storage import sha256_hex
    from components.inference.arithmetic import Arithmetic, pick_device
    from components.inference.opening import open_captioner

    config = _config(config, settings)
    named = read_images(images)
    with _model_folder(model) as folder:
        arithmetic = Arithmetic(pick_device(), config.precision)
        count, side = config.captions_per_image, config.image_size
        worker = open_captioner(folder, config.decoding, arithmetic, captions=count, image_size=side)
        rows: list[Captions] = []
        for batch in batches(named, config.batch_size):
            digests = [sha256_hex(data) for _, data in batch]
            seeds = [[key_seed(config.seed, one, at) for at in range(config.captions_per_image)] for one in digests]
            texts = worker.write(pictures(batch, worker.size, config), seeds)
            for (name, _), found in zip(batch, texts, strict=True):
                rows.append(Captions(image=name, captions=[one.text for one in found]))
    return rows


def score(
    model: Place,
    images: "Sequence[ImageLike]",
    texts: Sequence[str],
    *,
    config: "CapfiltConfig | None" = None,
    **settings: Any,
) -> list[Match]:
    """How well every text fits every image.

    Args:
        model: a filter.
        images: files, or the bytes of files, or Pillow images.
        texts: what is matched with each of them.
        config: settings; `position_zero`, `precision`, `image_size`, `max_words`, `max_tokens`, `batch_size` and the
            limits of images count.
        settings: fields of CapfiltConfig, in place of `config`.

    Returns:
        A row per image and text, the texts of the first image first.

    Raises:
        ConfigError: a setting is wrong, or there is no such file.
        DataError: something is no image; says which.
        ModelError: there is no filter.
    """
    from capfilt.images import batches, read_images, squares
    from components.inference.arithmetic import Arithmetic, pick_device
    from components.regeneration.models import open_filter

    if isinstance(texts, str):
        raise ConfigError("texts is a list of texts: put the one text into brackets")
    config = _config(config, settings)
    named = read_images(images)
    with _model_folder(model) as folder:
        worker = open_filter(folder, config, Arithmetic(pick_device(), config.precision))
        rows: list[Match] = []
        for batch in batches(named, config.batch_size):
            scores = worker.score(squares(batch, worker.size, config), [list(texts)] * len(batch))
            for (name, _), row in zip(batch, scores, strict=True):
                for text, (probability, similarity) in zip(texts, row, strict=True):
                    rows.append(Match(image=name, text=text, itm_probability=probability, itc_similarity=similarity))
    return rows


def search(
    uri: Place,
    words: str | None = None,
    *,
    image: "ImageLike | None" = None,
    model: Place | None = None,
    top: int = 10,
    rerank: int = 0,
    captions: bool = True,
) -> "list[Hit]":
    """Find images of a dataset by words or by an image, among all that CapFilt saw, kept or not.

    Every stored vector is compared: the search is exact. Words are looked for in a dataset's captions, too.

    Args:
        uri: a dataset made by CapFilt, or a folder or dataset that `index` was called for.
        words: what to look for.
        image: an image to find similar ones of, instead of words.
        model: folder of the filter that made the vectors, if it has moved.
        top: images to find.
        rerank: of so many nearest images, the ITM head says how well the words fit, and these come in its order.
        captions: images whose captions say the words come further to the front; without, vectors alone decide.

    Returns:
        The images, best first, with their candidate captions where a dataset has any.

    Raises:
        ConfigError: neither words nor an image are given, or both.
        DataError: there are no vectors, or no image is one.
        ModelError: the filter is not there, or is another one.
    """
    from capfilt.images import read_images
    from capfilt.searching import search_images
    from components.common.scratch import ScratchFolder

    data = None if image is None else read_images([image])[0][1]
    with ScratchFolder("model") as cache:
        place = None if model is None else fspath(model)
        return search_images(fspath(uri), words, data, place, top, rerank, cache, captions=captions)


def index(uri: Place, model: Place, *, batch_size: int = 64, progress: "Callable[[int], None] | None" = None) -> int:
    """Make the vectors of images that have none, so that `search` finds them; written to `capfilt.index` beside them.

    Args:
        uri: a folder or prefix of image files or of tars, or a sealed dataset.
        model: a filter.
        batch_size: images that go through the model at a time.
        progress: called with the number of images that were done.

    Returns:
        How many images were indexed.

    Raises:
        DataError: there is no image that can be used.
        ModelError: there is no filter.
    """
    from components.common.scratch import ScratchFolder
    from components.common.storage import normalise_uri
    from components.data.search import open_index
    from components.inference.search import index_images

    place = normalise_uri(fspath(uri))
    with ScratchFolder("model") as cache:
        index_images(place, fspath(model), cache, batch_size=batch_size, progress=progress or (lambda done: None))
    return len(open_index(place))


def ask(
    model: Place,
    images: "Sequence[ImageLike]",
    questions: Sequence[str],
    *,
    answers: Sequence[str] | None = None,
    config: "AskConfig | None" = None,
    **settings: Any,
) -> list[Answer]:
    """Answer every question about every image.

    Args:
        model: a VQA model.
        images: files, or the bytes of files, or Pillow images.
        questions: what is asked about each of them.
        answers: what `rank` chooses from; by default the list in the model's folder, which models trained here have.
        config: settings. Unless they name a method, answers are ranked where there is a list, else written.
        settings: fields of AskConfig, in place of `config`.

    Returns:
        A row per image and question, the questions of the first image first.

    Raises:
        ConfigError: a setting is wrong, there is no such file, or answers shall be ranked and there is no list.
        DataError: something is no image; says which.
        ModelError: there is no VQA model.
    """
    from capfilt.images import batches, read_images, squares
    from components.inference.arithmetic import Arithmetic, pick_device
    from components.inference.config import AskConfig
    from components.inference.vqa import Answerer
    from components.model.checkpoints.answers import read_answers
    from components.model.checkpoints.weights import load_vqa

    if isinstance(questions, str) or isinstance(answers, str):
        raise ConfigError("questions and answers are lists of texts: put the one text into brackets")
    config = _checked(AskConfig, config, settings)
    named = read_images(images)
    with _model_folder(model) as folder:
        loaded = load_vqa(folder, image_size=config.image_size, finetuned=True)
        listed = tuple(answers) if answers is not None else read_answers(folder)
        if "method" not in config.model_fields_set:
            config = config.model_copy(update={"method": "rank" if listed else "generate"})
        worker = Answerer(loaded, config, Arithmetic(pick_device(), config.precision), listed)
        rows: list[Answer] = []
        for batch in batches(named, config.batch_size):
            asked = [(place, question) for place in range(len(batch)) for question in questions]
            seen = squares(batch, worker.size, config)
            found = worker.answer(seen, [question for _, question in asked], [place for place, _ in asked])
            rows += [
                Answer(image=batch[place][0], question=question, answer=text)
                for (place, question), text in zip(asked, found, strict=True)
            ]
    return rows


def recut(
    uri: Place,
    *,
    out: Place,
    threshold: float | None = None,
    policy: "Policy" = "keep_both",
    text: "TextChoice | None" = None,
    keep: str | None = None,
    weigh: str | None = None,
    score: str | None = None,
    text_filters: "Mapping[str, Setting] | None" = None,
    threshold_of: Mapping[str, str] | None = None,
) -> "CapfiltResult":
    """Another threshold, rule or policy from the stored scores of a dataset, without a model, as a new dataset.

    Args:
        uri: a dataset made by CapFilt, or a recut one; its web shards must still lie where they were.
        out: root of the new dataset. Its last part is the dataset's name.
        threshold: score from which a text is kept, 0 to 1; None: 0.5, if the score is BLIP's match probability.
        policy: which of the texts that pass are kept.
        text: which of them becomes the `.txt`; None: as in the dataset.
        keep: rule over the stored scores in the threshold's place, e.g. `itm >= 0.5 and siglip >= 0.1`.
        weigh: rule for the weight of each pair in training.
        score: the score that `threshold` and `best` mean; None: as in the dataset.
        text_filters: filters of texts by themselves, as in CapfiltConfig.
        threshold_of: for which scorers the thresholds were found: score's name to digest; others are refused.

    Returns:
        The dataset and its figures, as of `regenerate`.

    Raises:
        ConfigError: the threshold or policy is none, or `out` holds something else.
        DataError: it is no such dataset, or its web shards are gone or changed.
    """
    from components.common.storage import normalise_uri, open_store
    from components.regeneration.recut import recut_dataset

    given: dict[str, Any] = {"threshold": threshold, "policy": policy, "text": text, "keep": keep, "weigh": weigh}
    given |= {"score": score, "text_filters": text_filters}
    _config(None, {field: value for field, value in given.items() if value is not None})
    target = open_store(fspath(out))
    name = target.uri.rpartition("/")[2]
    return recut_dataset(
        normalise_uri(fspath(uri)),
        threshold=threshold,
        policy=policy,
        text=text,
        keep=keep,
        weigh=weigh,
        score=score,
        text_filters=text_filters,
        threshold_of=threshold_of,
        store=target,
        name=name,
        out=target,
    )


def open_dataset(uri: Place, *, shuffle: int = 0, seed: int = 0) -> "Samples":
    """A sealed dataset as a webdataset pipeline over what was kept: `components.data.pipeline` says what it yields.

    Args:
        uri: a dataset's root, in a folder or S3.
        shuffle: samples that are held in memory to be shuffled, the order of shards being shuffled too; 0: the order of
            the dataset.
        seed: of the shuffling.

    Returns:
        An iterable of dicts with `__key__`, the image under its extension, `txt` and `json`, all bytes; with `.decode`,
        `.to_tuple`, `.map`, `.batched` … of webdataset, and for `torch.utils.data.DataLoader` as it is.

    Raises:
        DataError: there is no dataset, or (while reading) it is not what its manifest says.
        StorageError: the store refuses.
    """
    from components.data.pipeline import open_dataset as opened

    return opened(fspath(uri), shuffle=shuffle, seed=seed)


def _config(config: "CapfiltConfig | None", settings: Mapping[str, Any]) -> "CapfiltConfig":
    """CapFilt's settings; see `_checked`."""
    from components.regeneration.config import CapfiltConfig

    return _checked(CapfiltConfig, config, settings)


def _checked(kind: type[M], config: M | None, settings: Mapping[str, Any]) -> M:
    """The settings, given in one of two ways.

    Raises:
        ConfigError: in both, or one of them is wrong.
    """
    from pydantic import ValidationError

    if config is not None:
        if settings:
            raise ConfigError(f"give config, or {', '.join(settings)} by keyword, not both")
        return config
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc'])) or 'settings'}: {one['msg']}" for one in error.errors()]
        raise ConfigError("\n".join(faults)) from error


def referenced(
    captioner: Place,
    filter: Place,  # noqa: A002 - the role's name
    scorers: Mapping[str, Place],
) -> "tuple[ModelRef, ModelRef, dict[str, ModelRef]]":
    """References to captioner, filter and further scorers by name, each fetched from the hub where it names one there.

    Raises:
        ConfigError: captioner or filter is the other one.
        ModelError: there is no such model.
    """
    from components.inference.hub import model_place
    from components.inference.roles import check_roles
    from components.model.checkpoints.publishing import reference_model

    writer, judge = _captioner(fspath(captioner)), reference_model(model_place(fspath(filter)), "filter")
    check_roles(writer.uri, judge.uri, names=("captioner", "filter"), instead="each in the other's place")
    return writer, judge, {name: reference_model(model_place(fspath(one)), "filter") for name, one in scorers.items()}


def _captioner(place: str) -> "ModelRef":
    """A reference to a captioner's folder or server. Of a server's model nobody knows more than its name."""
    from components.common.contracts import ModelRef
    from components.common.seeding import digest_of
    from components.inference.endpoint import address_of
    from components.inference.families import is_endpoint
    from components.inference.hub import model_place
    from components.model.checkpoints.publishing import reference_model

    if is_endpoint(place):
        return ModelRef(role="captioner", uri=place, digest=digest_of(["endpoint", address_of(place).model]))
    return reference_model(model_place(place), "captioner")


def _calibrated(
    judge: "ModelRef", human: tuple[Place, Place], config: "CapfiltConfig", out: "Store", folder: "Path"
) -> "tuple[CapfiltConfig, dict[str, float]]":
    """The config with the threshold that the filter needs by human captions, measured once per output; the figures."""
    from components.common.storage import open_store
    from components.data.coco import import_coco
    from components.regeneration.calibration import remembered, run_calibration, settle

    annotations, images = (fspath(place) for place in human)
    limit = config.calibration.images
    data = import_coco(annotations, images, store=open_store(str(folder)), name="calibration", limit=limit)
    measure = partial(run_calibration, judge, data, config, work_dir=folder)
    found = remembered(out, judge, data, config, measure)
    return settle(config, found, judge), found.metrics


@contextlib.contextmanager
def _model_folder(model: Place) -> "Iterator[Path]":
    """A model's folder on this machine, for as long as it is needed."""
    from components.common.scratch import ScratchFolder
    from components.common.storage import normalise_uri
    from components.inference.hub import model_place
    from components.model.checkpoints.publishing import fetch_model

    with ScratchFolder("model") as cache:
        yield fetch_model(normalise_uri(model_place(fspath(model))), cache)
