"""Models from files and back: Hugging Face folders, and the original `salesforce/BLIP` state dicts.

A model folder holds `config.json`, `model.safetensors`, tokenizer files and `preprocessor_config.json`, and
transformers loads it without our code: the captioner as `BlipForConditionalGeneration`, the filter as
`BlipForImageTextRetrieval`, VQA as `BlipForQuestionAnswering`. A pre-trained model's folder holds the parameters of
captioner and filter together, and the momentum encoders and queues beside them in `pretraining.safetensors`.

Nothing that pickles is read from a folder; an original checkpoint is read with `weights_only=True`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.common.errors import ModelError
from components.model.blip import BlipCaptioner, BlipFilter, BlipPretrain, BlipVqa
from components.model.checkpoints import layouts
from components.model.checkpoints.folder import (
    Preprocessor,
    read_config,
    read_preprocessor,
    write_config,
    write_preprocessor,
)
from components.model.checkpoints.layouts import Slot
from components.model.checkpoints.original import read_original
from components.model.checkpoints.publishing import fetch_model, publish_model
from components.model.checkpoints.tensors import WEIGHTS_FILE, read_safetensors, read_tensors
from components.model.config import CLIP_MEAN, CLIP_STD, BlipConfig, PositionZero
from components.model.objectives import TEMPERATURE_RANGE
from components.model.text import ROLES, Role
from components.model.tokenizer import BlipTokenizer
from components.model.vision import resize_positions

__all__ = [
    "LoadedModel",
    "Preprocessor",
    "fetch_model",
    "load_base",
    "load_captioner",
    "load_filter",
    "load_teacher",
    "load_vqa",
    "publish_model",
    "save_model",
    "to_original",
]

AnyModel = BlipPretrain | BlipCaptioner | BlipFilter | BlipVqa
ModelType = TypeVar("ModelType", bound=nn.Module)

TEACHER_FILE = "pretraining.safetensors"


@dataclass(frozen=True)
class LoadedModel(Generic[ModelType]):
    """A model in eval mode on the CPU in fp32, the tokenizer it was trained with, and how it wants images."""

    model: ModelType
    tokenizer: BlipTokenizer
    preprocessor: Preprocessor


def load_captioner(
    source: Path | str, *, image_size: int | None = None, tokenizer: BlipTokenizer | None = None
) -> LoadedModel[BlipCaptioner]:
    """A captioner from its folder, from a pre-trained model's (which holds one), or from an original `.pth`.

    Args:
        source: model folder, or file of the original repository.
        image_size: side of the images, pixels, if not the source's: position embeddings are interpolated.
        tokenizer: instead of the folder's; needed for a `.pth` without `vocab.txt` beside it.

    Raises:
        ModelError: not a checkpoint of this kind, with the names that do not fit.
    """
    return _load(Path(source), BlipCaptioner, image_size, tokenizer)


def load_filter(
    source: Path | str,
    *,
    image_size: int | None = None,
    tokenizer: BlipTokenizer | None = None,
    position_zero: PositionZero | None = None,
) -> LoadedModel[BlipFilter]:
    """A filter; see `load_captioner`. `position_zero`: instead of the folder's own, or [ENC] if it has none."""
    loaded = _load(Path(source), BlipFilter, image_size, tokenizer)
    if position_zero is not None:
        loaded.model.position_zero = position_zero
    return loaded


def load_base(
    source: Path | str, *, image_size: int | None = None, tokenizer: BlipTokenizer | None = None
) -> LoadedModel[BlipPretrain]:
    """A pre-trained model; see `load_captioner`. Its momentum encoders: `load_teacher`."""
    return _load(Path(source), BlipPretrain, image_size, tokenizer)


def load_vqa(
    source: Path | str,
    *,
    image_size: int | None = None,
    tokenizer: BlipTokenizer | None = None,
    finetuned: bool = False,
) -> LoadedModel[BlipVqa]:
    """A model for visual question answering; see `load_captioner`.

    Args:
        source, image_size, tokenizer: as of `load_captioner`.
        finetuned: refuse a pre-trained model's folder, which holds one that has yet to learn to answer.
    """
    folder = Path(source)
    if finetuned and folder.is_dir():
        found = read_config(folder).architectures
        if found and found != _ARCHITECTURES[BlipVqa]:
            raise ModelError(
                f"{folder} is no VQA model but {' and '.join(found)}: give one that was finetuned to answer questions "
                "(the task vqa, or a BlipForQuestionAnswering)"
            )
    return _load(Path(source), BlipVqa, image_size, tokenizer)


def load_teacher(folder: Path | str) -> dict[str, Tensor] | None:
    """Momentum encoders and queue in a pre-trained model's folder (`Objective.load_teacher_state`); None if absent."""
    path = Path(folder) / TEACHER_FILE
    return read_safetensors(path) if path.is_file() else None


def save_model(
    model: AnyModel,
    tokenizer: BlipTokenizer,
    folder: Path | str,
    *,
    image_mean: tuple[float, float, float] = CLIP_MEAN,
    image_std: tuple[float, float, float] = CLIP_STD,
    weights: Mapping[str, Tensor] | None = None,
    teacher: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model folder, fp32.

    Args:
        model: which model, in what size; also the parameters unless `weights` are given.
        tokenizer: its vocabulary is the model's.
        folder: made if absent; files of the same names are replaced.
        image_mean, image_std: normalisation of images the model was trained with, per channel.
        weights: parameters by our names, instead of the model's own (an engine's fp32 copies of a bf16 model).
        teacher: momentum encoders and queue (`Objective.teacher_state`), for `pretraining.safetensors`.

    Raises:
        ModelError: tokenizer and model do not belong together, or transformers has no place for the model.
    """
    folder = Path(folder)
    own = dict(model.state_dict() if weights is None else weights)
    config = _check_tokenizer(model.config, tokenizer, str(folder))
    if isinstance(model, BlipVqa) and config.vision.width != config.text.width:
        raise ModelError(
            f"{folder}: transformers reads VQA models only where vision and text are equally wide, "
            f"not {config.vision.width} and {config.text.width}"
        )
    if "temperature" in own:
        temperature = float(own["temperature"].float().clamp(*TEMPERATURE_RANGE))
        config = config.model_copy(update={"temperature": temperature})
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    write_config(folder, config, _ARCHITECTURES[type(model)], getattr(model, "position_zero", "enc"))
    write_preprocessor(folder, Preprocessor(config.vision.image_size, image_mean, image_std))
    if teacher is not None:
        rows = {name: value.detach().cpu().clone().contiguous() for name, value in teacher.items()}
        save_file(rows, folder / TEACHER_FILE, metadata={"format": "pt"})
    save_file(layouts.to_file(own, _slots(type(model), config)), folder / WEIGHTS_FILE, metadata={"format": "pt"})


def to_original(model: AnyModel) -> dict[str, Tensor]:
    """The model's parameters as a `salesforce/BLIP` state dict (what its files hold under `model`)."""
    state = layouts.to_original(layouts.to_file(model.state_dict(), _slots(type(model), model.config)))
    if isinstance(model, BlipPretrain | BlipFilter):
        state["temp"] = model.temperature.detach().cpu().float().reshape(())
    return state


_ARCHITECTURES: dict[type[nn.Module], tuple[str, ...]] = {
    BlipCaptioner: ("BlipForConditionalGeneration",),
    BlipFilter: ("BlipForImageTextRetrieval",),
    BlipPretrain: ("BlipForConditionalGeneration", "BlipForImageTextRetrieval"),
    BlipVqa: ("BlipForQuestionAnswering",),
}


def _slots(kind: type[nn.Module], config: BlipConfig) -> list[Slot]:
    """Where a file keeps the parameters of a model of this kind."""

    def parts() -> Iterator[Slot]:
        yield from layouts.vision_slots(config)
        if kind is BlipVqa:
            yield from layouts.text_slots(config, ("encoder",), "text_encoder")
            yield from layouts.text_slots(config, ("decoder",), "text_decoder")
        else:
            yield from layouts.text_slots(config, _TEXT_ROLES[kind])
        if kind in (BlipFilter, BlipPretrain):
            yield from layouts.head_slots()

    return list(parts())


_TEXT_ROLES: dict[type[nn.Module], tuple[Role, ...]] = {
    BlipCaptioner: ("decoder",),
    BlipFilter: ("encoder",),
    BlipPretrain: ROLES,
}


def _load(
    source: Path, kind: Callable[[BlipConfig], ModelType], image_size: int | None, tokenizer: BlipTokenizer | None
) -> LoadedModel[ModelType]:
    """Read config, tokenizer, preprocessor and parameters of a folder or a file, and put the model together."""
    if not source.is_dir() and not source.is_file():
        raise ModelError(f"{source}: there is no such model folder or file; fetch it first, or mend the path")
    tokenizer = tokenizer if tokenizer is not None else _tokenizer_of(source)
    position_zero = None
    if source.is_dir():
        config, position_zero, architectures = read_config(source)
        if architectures == _ARCHITECTURES[BlipVqa] and kind is not BlipVqa:
            raise ModelError(
                f"{source} is a VQA model, whose decoder reads questions: give a captioner, filter or base"
            )
        _refuse_the_other(kind, architectures, source)
        preprocessor = read_preprocessor(source, config.vision.image_size)
        weights = read_tensors(source)
    else:
        config, weights = read_original(source)
        config = config.with_text(pad_id=tokenizer.pad_id, sep_id=tokenizer.sep_id)  # the file does not say
        preprocessor = Preprocessor(config.vision.image_size)
    config = _check_tokenizer(config, tokenizer, str(source))
    size = image_size or preprocessor.size
    if size % config.vision.patch_size:
        raise ModelError(f"image_size {size} must be a multiple of {config.vision.patch_size}, the patches of {source}")
    config = config.with_vision(image_size=size)
    model = _build(kind, config, layouts.without_copies(weights, str(source)), str(source))
    if position_zero is not None and isinstance(model, BlipFilter | BlipPretrain):
        model.position_zero = position_zero
    return LoadedModel(model, tokenizer, Preprocessor(size, preprocessor.mean, preprocessor.std))


def _build(
    kind: Callable[[BlipConfig], ModelType], config: BlipConfig, weights: Mapping[str, Tensor], where: str
) -> ModelType:
    """A model of this kind with a file's parameters."""
    with torch.device("meta"):  # nothing is drawn at random, nothing is allocated twice
        model = kind(config)
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    slots = _slots(type(model), config)
    layouts.check_names(weights, slots, wanted, layouts.base_names(config), where)
    own = layouts.from_file(weights, slots, where)
    own["vision_model.positions"] = resize_positions(own["vision_model.positions"], config.vision.patches)
    if "temperature" in wanted:
        own["temperature"] = torch.full((1,), config.temperature)
    model.load_state_dict(own, assign=True)
    return model.eval()


def _refuse_the_other(kind: Callable[..., nn.Module], architectures: Sequence[str], source: Path) -> None:
    """Of captioner and filter, each where the other is wanted: told by what it is, not by the tensors that it lacks.

    Raises:
        ModelError: it is the other one.
    """
    found = tuple(architectures)
    if kind is BlipCaptioner and found == _ARCHITECTURES[BlipFilter]:
        raise ModelError(f"{source} is a filter, which writes no captions: give a captioner's folder")
    if kind is BlipFilter and found == _ARCHITECTURES[BlipCaptioner]:
        raise ModelError(f"{source} is a captioner, which judges no texts: give a filter's folder")


def _check_tokenizer(config: BlipConfig, tokenizer: BlipTokenizer, where: str) -> BlipConfig:
    """The config with the tokenizer's special ids; ModelError if the two do not belong together."""
    text = config.text
    differing = [
        f"{name} {getattr(tokenizer, name)} instead of {getattr(text, name)}"
        for name in ("pad_id", "sep_id", "dec_id")
        if getattr(tokenizer, name) != getattr(text, name)
    ]
    if tokenizer.vocab_size > text.vocab_size:
        differing.append(f"{tokenizer.vocab_size} tokens for {text.vocab_size} embeddings")
    if differing:
        raise ModelError(
            f"{where}: the tokenizer is not this model's ({'; '.join(differing)}); "
            "use the tokenizer files that came with the checkpoint"
        )
    return config.with_text(cls_id=tokenizer.cls_id, enc_id=tokenizer.enc_id)


def _tokenizer_of(source: Path) -> BlipTokenizer:
    """The tokenizer in a model folder, or beside an original checkpoint."""
    if source.is_file() and not (source.parent / "vocab.txt").is_file():
        raise ModelError(
            f"{source}: an original checkpoint brings no tokenizer: put bert-base-uncased's vocab.txt beside it"
        )
    return BlipTokenizer.load(source if source.is_dir() else source.parent)
