"""The names BLIP's parameters go by in files: Hugging Face's, which model folders use, and the original repository's.

Our modules fuse and share what those files keep apart: query, key and value of self-attention are one matrix, key and
value of cross-attention another, and what encoder and decoder share exists once (docs/facts.md 4 and 12).

Shapes: D width of the vision transformer, P patch side.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from components.common.errors import ModelError
from components.model.config import BlipConfig
from components.model.text import ROLES, Role

_SHOWN = 20
_MATRIX = ("weight", "bias")


@dataclass(frozen=True)
class Slot:
    """One of our parameters, and where a file keeps it.

    Attributes:
        ours: the parameter's name in our module.
        places: names whose tensors are laid one after the other (along the rows) to make it; more than one place where
            the file keeps tied copies, which must then be equal.
        shape: shape of the tensor in the file, where it is not ours.
    """

    ours: str
    places: tuple[tuple[str, ...], ...]
    shape: tuple[int, ...] | None = None


def vision_slots(config: BlipConfig, ours: str = "vision_model") -> Iterator[Slot]:
    """The vision transformer; the patch projection is a convolution `[D, 3, P, P]` in files."""
    vision, theirs = config.vision, "vision_model"
    convolution = (vision.width, 3, vision.patch_size, vision.patch_size)
    yield Slot(f"{ours}.cls", ((f"{theirs}.embeddings.class_embedding",),))
    yield Slot(f"{ours}.positions", ((f"{theirs}.embeddings.position_embedding",),))
    yield Slot(f"{ours}.patch.weight", ((f"{theirs}.embeddings.patch_embedding.weight",),), convolution)
    yield Slot(f"{ours}.patch.bias", ((f"{theirs}.embeddings.patch_embedding.bias",),))
    yield from module_slots(f"{ours}.norm", f"{theirs}.post_layernorm")
    names = {
        "norm1": "layer_norm1",
        "attention.qkv": "self_attn.qkv",
        "attention.out": "self_attn.projection",
        "norm2": "layer_norm2",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
    }
    for index in range(vision.depth):
        for own, their in names.items():
            yield from module_slots(f"{ours}.blocks.{index}.{own}", f"{theirs}.encoder.layers.{index}.{their}")


def text_slots(config: BlipConfig, roles: tuple[Role, ...], ours: str = "text") -> Iterator[Slot]:
    """The text stack of these roles; what they share is in the file once per role."""
    stacks = {"encoder": "text_encoder", "decoder": "text_decoder.bert"}
    present = [stacks[role] for role in roles]
    yield from _shared(f"{ours}.words", present, ("embeddings.word_embeddings",), ("weight",))
    yield from _shared(f"{ours}.positions", present, ("embeddings.position_embeddings",), ("weight",))
    yield from _shared(f"{ours}.norm", present, ("embeddings.LayerNorm",))
    for index in range(config.text.depth):
        layer = f"{ours}.layers.{index}"
        layers = [f"{stack}.encoder.layer.{index}" for stack in present]
        for role in roles:
            own = [f"{stacks[role]}.encoder.layer.{index}.attention"]
            yield from _shared(f"{layer}.{role}_attention.qkv", own, ("self.query", "self.key", "self.value"))
            yield from _shared(f"{layer}.{role}_attention.out", own, ("output.dense",))
            yield from _shared(f"{layer}.{role}_attention.norm", own, ("output.LayerNorm",))
        cross = [f"{stack}.crossattention" for stack in layers]
        yield from _shared(f"{layer}.cross_attention.query", cross, ("self.query",))
        yield from _shared(f"{layer}.cross_attention.key_value", cross, ("self.key", "self.value"))
        yield from _shared(f"{layer}.cross_attention.out", cross, ("output.dense",))
        yield from _shared(f"{layer}.cross_attention.norm", cross, ("output.LayerNorm",))
        yield from _shared(f"{layer}.fc1", layers, ("intermediate.dense",))
        yield from _shared(f"{layer}.fc2", layers, ("output.dense",))
        yield from _shared(f"{layer}.norm", layers, ("output.LayerNorm",))
    if "decoder" in roles:
        head = "text_decoder.cls.predictions"
        yield from module_slots(f"{ours}.head.dense", f"{head}.transform.dense")
        yield from module_slots(f"{ours}.head.norm", f"{head}.transform.LayerNorm")
        yield Slot(f"{ours}.head.bias", ((f"{head}.bias",),))


def head_slots() -> Iterator[Slot]:
    """Projections to the shared space and the matching head; the temperature lives in the config."""
    for name in ("vision_proj", "text_proj", "itm_head"):
        yield from module_slots(name, name)


def base_names(config: BlipConfig) -> set[str]:
    """All names a pre-trained checkpoint may hold; a captioner or a filter takes from it what it needs."""
    slots = [*vision_slots(config), *text_slots(config, ROLES), *head_slots()]
    return {name for slot in slots for place in slot.places for name in place}


def module_slots(ours: str, *theirs: str) -> Iterator[Slot]:
    """Weight and bias of one of our modules, which files keep as these modules, one below the other."""
    return _shared(ours, [""], theirs)


def _shared(
    ours: str, prefixes: list[str], suffixes: tuple[str, ...], kinds: tuple[str, ...] = _MATRIX
) -> Iterator[Slot]:
    for kind in kinds:
        places = (tuple(".".join(filter(None, (prefix, suffix, kind))) for suffix in suffixes) for prefix in prefixes)
        yield Slot(f"{ours}.{kind}", tuple(places))


def to_file(own: Mapping[str, Tensor], slots: Iterable[Slot]) -> dict[str, Tensor]:
    """Our parameters under a file's names, fp32 on the CPU, every tensor with memory of its own."""
    result: dict[str, Tensor] = {}
    for slot in slots:
        value = own[slot.ours].detach().to(device="cpu", dtype=torch.float32)
        if slot.shape is not None:
            value = value.reshape(slot.shape)
        for place in slot.places:
            for name, part in zip(place, value.chunk(len(place)), strict=True):
                result[name] = part.clone(memory_format=torch.contiguous_format)
    return result


def from_file(weights: Mapping[str, Tensor], slots: Iterable[Slot], where: str) -> dict[str, Tensor]:
    """A file's tensors under our names, fp32. Of tied copies one is enough.

    Raises:
        ModelError: tied copies differ (a checkpoint of another kind). Missing names are left out: see `check_names`.
    """
    result: dict[str, Tensor] = {}
    for slot in slots:
        places = [place for place in slot.places if all(name in weights for name in place)]
        for place in places[1:]:
            if not all(torch.equal(weights[a], weights[b]) for a, b in zip(places[0], place, strict=True)):
                raise ModelError(
                    f"{where}: {place[0]} differs from {places[0][0]}, but a pre-trained BLIP shares the two; this is "
                    "no pre-training checkpoint: load it as the captioner, filter or VQA model that it is"
                )
        if places and len({weights[name].shape[1:] for name in places[0]}) == 1:
            parts = [weights[name].float() for name in places[0]]
            joined = parts[0] if len(parts) == 1 else torch.cat(parts)
            result[slot.ours] = joined if slot.shape is None else joined.flatten(1)
    return result


def check_names(
    weights: Mapping[str, Tensor],
    slots: Iterable[Slot],
    wanted: Mapping[str, torch.Size],
    allowed: set[str],
    where: str,
) -> None:
    """Refuse a checkpoint that does not hold what the model wants, or holds what no such model has.

    Args:
        weights: the file's tensors.
        slots: where the model's parameters are in it.
        wanted: shapes of our parameters by our name; position embeddings may differ in length.
        allowed: names that may be there without being wanted.

    Raises:
        ModelError: with the missing, unexpected and mis-shaped names (the first 20 of each, and the count).
    """
    missing, shaped, known = [], [], set(allowed)
    for slot in slots:
        known.update(name for place in slot.places for name in place)
        place = next((place for place in slot.places if all(name in weights for name in place)), None)
        if place is None:
            missing += [name for name in slot.places[0] if name not in weights]
            continue
        shape = slot.shape or tuple(wanted[slot.ours])
        expected = (shape[0] // len(place), *shape[1:])
        if slot.ours.endswith("vision_model.positions"):
            expected = (1, weights[place[0]].shape[1], shape[2])
        shaped += [
            f"{name} {tuple(weights[name].shape)} instead of {expected}"
            for name in place
            if tuple(weights[name].shape) != expected
        ]
    unexpected = [name for name in weights if name not in known]
    lists = {"missing": missing, "unexpected": unexpected, "mis-shaped": shaped}
    if any(lists.values()):
        raise ModelError(
            f"{where} does not hold this model: {'; '.join(filter(None, map(_listed, lists, lists.values())))}. "
            "Use a checkpoint of this role and size, with the config.json it came with."
        )


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" … and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"


_TIED_HEAD = {
    "text_decoder.cls.predictions.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}


def without_copies(weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Drop buffers, and the LM head's output matrix and bias, which must equal what they are tied to.

    Raises:
        ModelError: a copy that differs: the checkpoint was untied and is none of BLIP's.
    """
    kept = {name: value for name, value in weights.items() if name.rsplit(".", 1)[-1] != "position_ids"}
    for copy, source in _TIED_HEAD.items():
        value = kept.pop(copy, None)
        if value is None:
            continue
        if source not in kept:
            kept[source] = value
        elif not torch.equal(value, kept[source]):
            raise ModelError(f"{where}: {copy} differs from {source}, to which BLIP ties it; export tied weights")
    return kept


class OriginalCheckpoint(NamedTuple):
    """A `salesforce/BLIP` state dict taken apart: weights and momentum under Hugging Face names, and the rest."""

    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]
    queues: dict[str, Tensor]
    temperature: float | None


_VISION_NAMES = (  # original name and Hugging Face's; # stands for a layer's number
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj", "vision_model.embeddings.patch_embedding"),
    ("visual_encoder.norm", "vision_model.post_layernorm"),
    ("visual_encoder.blocks.#.norm1", "vision_model.encoder.layers.#.layer_norm1"),
    ("visual_encoder.blocks.#.norm2", "vision_model.encoder.layers.#.layer_norm2"),
    ("visual_encoder.blocks.#.attn.qkv", "vision_model.encoder.layers.#.self_attn.qkv"),
    ("visual_encoder.blocks.#.attn.proj", "vision_model.encoder.layers.#.self_attn.projection"),
    ("visual_encoder.blocks.#.mlp", "vision_model.encoder.layers.#.mlp"),
)
_FROM_ORIGINAL = dict(_VISION_NAMES)
_TO_ORIGINAL = {theirs: original for original, theirs in _VISION_NAMES}
_MOMENTUM = re.compile(r"^(visual_encoder|vision_proj|text_encoder|text_proj)_m\.(.+)$")
_QUEUES = ("image_queue", "text_queue", "idx_queue", "queue_ptr", "ptr_queue")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def from_original(state: Mapping[str, Tensor]) -> OriginalCheckpoint:
    """Take a `salesforce/BLIP` state dict apart (docs/facts.md 12)."""
    temperature = float(state["temp"]) if "temp" in state else None
    checkpoint = OriginalCheckpoint({}, {}, {}, temperature)
    for name, value in state.items():
        if name in _QUEUES:
            checkpoint.queues[name] = value
        elif match := _MOMENTUM.match(name):
            checkpoint.momentum[_renamed(f"{match[1]}.{match[2]}", _FROM_ORIGINAL)] = value
        elif name != "temp":
            checkpoint.weights[_renamed(name, _FROM_ORIGINAL)] = value
    return checkpoint


def to_original(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under Hugging Face names to the names of `salesforce/BLIP`, with the tied copies its loader expects."""
    state = {_renamed(name, _TO_ORIGINAL): value for name, value in weights.items()}
    return state | {copy: state[source] for copy, source in _TIED_HEAD.items() if source in state}


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """Replace the longest beginning of a dotted name that the table knows."""
    number = _NUMBER.search(name)
    pattern = _NUMBER.sub("#", name, count=1)
    cut = len(pattern)
    while cut > 0:
        if (replacement := table.get(pattern[:cut])) is not None:
            return (replacement + pattern[cut:]).replace("#", number[0] if number else "#")
        cut = pattern.rfind(".", 0, cut)
    return name
