"""Where the paper's pre-training starts: an ImageNet ViT and BERT (section 4.1), all else fresh.

Read from folders as transformers or timm save them (`config.json`, `model.safetensors`). Both text roles start as BERT;
cross-attention, projections and matching head are fresh, and so are the two tokens BERT does not know, [DEC] and [ENC]
(docs/facts.md 2 and 3). Poolers and classifiers have no place in BLIP and are left behind; whatever else the
network has no place for is refused, since without it the encoder computes something else.

The network then computes what the encoders compute. BERT adds a row for the first segment to every token, and BLIP has
no token types: that row goes into the positions. Images are normalised as the ViT's were, by what the model's folder
says. `as_released` is the reference's way instead: token types dropped, BLIP's normalisation, the network's epsilon.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from components.common.contracts import ModelRef
from components.common.errors import ModelError
from components.common.seeding import seed_everything
from components.common.storage import Store
from components.model.blip import BlipPretrain
from components.model.checkpoints import layouts
from components.model.checkpoints.layouts import Slot, module_slots
from components.model.checkpoints.publishing import fetch_model, fetch_tokenizer, publish_model
from components.model.checkpoints.tensors import WEIGHTS_FILE, read_tensors
from components.model.checkpoints.weights import save_model
from components.model.config import CLIP_MEAN, CLIP_STD, BlipConfig, VisionConfig
from components.model.encoder_facts import Channels, Part, check_facts, read_facts, read_normalisation, write_vision
from components.model.text import ROLES
from components.model.tokenizer import BLIP_TOKENS, BlipTokenizer
from components.model.vision import VisionTransformer, resize_positions

REVISION = 2
"""Counts up when the same encoders would give another model."""

_STACKS = ("text_encoder", "text_decoder.bert")
_BIAS = "text_decoder.cls.predictions.bias"
_TYPES, _POSITIONS = "embeddings.token_type_embeddings.weight", "embeddings.position_embeddings.weight"
_LEFT_BEHIND: dict[Part, re.Pattern[str]] = {
    "vision": re.compile(
        r"^(visual_encoder\.)?((cls_|distillation_)?classifier|head|head_drop|fc_norm|pre_logits|pooler|decoder)\."
        r"|mask_token$"
    ),
    "text": re.compile(rf"\.(pooler|classifier|qa_outputs|seq_relationship)\.|{re.escape(_TYPES)}$"),
}
"""Names, after renaming, of what has no part in an encoder's hidden states."""
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # in BERT's first files


def publish_start(
    config: BlipConfig,
    encoders: Mapping[str, ModelRef],
    *,
    tokenizer: str,
    seed: int,
    store: Store,
    work_dir: Path,
    as_released: bool = False,
) -> ModelRef:
    """Make the model that pre-training starts from, and publish it at the root of `store`.

    Args:
        config: the network.
        encoders: `vision`, `text`, or both.
        tokenizer: URI of the tokenizer's folder.
        seed: decides what is fresh.
        store: where the model goes.
        work_dir: for copies of what lies in S3.
        as_released: the reference's way (see above).

    Raises:
        ModelError: an encoder does not fit the network.
    """
    folders = {name: fetch_model(ref.uri, work_dir / name) for name, ref in encoders.items()}
    words = BlipTokenizer.load(fetch_tokenizer(tokenizer, work_dir / "tokenizer"))
    sized = config.for_tokenizer(words)
    vision = folders.get("vision")
    model = model_from_encoders(sized, vision=vision, text=folders.get("text"), seed=seed, as_released=as_released)
    own = None if vision is None or as_released else read_normalisation(vision)
    mean, std = own or (CLIP_MEAN, CLIP_STD)
    save_model(model, words, work_dir / "model", image_mean=mean, image_std=std)
    return publish_model(work_dir / "model", store, "base")


def save_vision(vision: VisionTransformer, folder: Path, normalisation: tuple[Channels, Channels]) -> None:
    """Write a vision transformer as a folder of transformers' `ViTModel` (without its pooler).

    Args:
        vision: the network.
        folder: made if it is not there.
        normalisation: mean and deviation per channel, of values in 0…1, that its images had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = {f"vision_model.{name}": value for name, value in vision.state_dict().items()}
    save_file(layouts.to_file(own, _vit_slots(vision.config)), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_vision(folder, vision.config, normalisation)


def model_from_encoders(
    config: BlipConfig, *, vision: Path | None, text: Path | None, seed: int, as_released: bool = False
) -> BlipPretrain:
    """A model to start pre-training from.

    Args:
        config: the network, with its tokenizer's vocabulary size.
        vision: folder of a ViT of the network's widths and patch side; None: fresh.
        text: folder of a BERT of the network's widths, whose vocabulary is the network's without [DEC] and [ENC].
            None: fresh.
        seed: decides what is fresh.
        as_released: the reference's way (see above).

    Raises:
        ModelError: no such encoder, or one that computes something else than the network: with the names that do not
            fit, or with what the folder says and what to set.
    """
    seed_everything(seed)
    model = BlipPretrain(config)
    if vision is not None:
        _fill(model, *_vit(vision, config), "vision", vision)
        _check(config, "vision", vision, as_released)
    if text is not None:
        _fill(model, *_bert(text, model, as_released), "text", text)
        _check(config, "text", text, as_released)
    return model


def _check(config: BlipConfig, part: Part, folder: Path, as_released: bool) -> None:
    """Hold what the folder says against the network; the reference has epsilons of its own."""
    own = config.vision if part == "vision" else config.text
    eps = None if as_released else own.layer_norm_eps
    check_facts(read_facts(folder), part, folder, heads=own.heads, layer_norm_eps=eps)


def _fill(model: BlipPretrain, tensors: Mapping[str, Tensor], slots: Iterable[Slot], part: Part, where: Path) -> None:
    """Put a file's tensors into the model, all or none."""
    slots = list(slots)
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    spare = {name for name in tensors if _LEFT_BEHIND[part].search(name)}
    layouts.check_names(tensors, slots, wanted, spare, str(where))
    own = layouts.from_file(tensors, slots, str(where))
    positions = "vision_model.positions"
    if positions in own:
        own[positions] = resize_positions(own[positions], model.config.vision.patches)
    model.load_state_dict(own, strict=False)  # what it does not name stays fresh; what it names was checked


def _vit(folder: Path, config: BlipConfig) -> tuple[Mapping[str, Tensor], Iterator[Slot]]:
    """A ViT's tensors, and where they go: under timm's names, which the original BLIP has too, or transformers'."""
    tensors = read_tensors(folder)
    if "patch_embed.proj.weight" in tensors:
        original = {f"visual_encoder.{name}": value for name, value in tensors.items()}
        return layouts.from_original(original).weights, layouts.vision_slots(config)
    plain = {name.removeprefix("vit.").removeprefix("deit."): value for name, value in tensors.items()}
    return plain, _vit_slots(config.vision)


def _vit_slots(vision: VisionConfig) -> Iterator[Slot]:
    """The vision transformer under the names of transformers' `ViTModel`."""
    ours = "vision_model"
    convolution = (vision.width, 3, vision.patch_size, vision.patch_size)
    yield Slot(f"{ours}.cls", (("embeddings.cls_token",),))
    yield Slot(f"{ours}.positions", (("embeddings.position_embeddings",),))
    yield Slot(f"{ours}.patch.weight", (("embeddings.patch_embeddings.projection.weight",),), convolution)
    yield Slot(f"{ours}.patch.bias", (("embeddings.patch_embeddings.projection.bias",),))
    yield from module_slots(f"{ours}.norm", "layernorm")
    names = {
        "norm1": ("layernorm_before",),
        "attention.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        "attention.out": ("attention.output.dense",),
        "norm2": ("layernorm_after",),
        "fc1": ("intermediate.dense",),
        "fc2": ("output.dense",),
    }
    for index in range(vision.depth):
        for own, theirs in names.items():
            places = [f"encoder.layer.{index}.{name}" for name in theirs]
            yield from module_slots(f"{ours}.blocks.{index}.{own}", *places)


def _bert(folder: Path, model: BlipPretrain, as_released: bool) -> tuple[Mapping[str, Tensor], Iterator[Slot]]:
    """A BERT's tensors under the names of BLIP's text stacks, and where they go."""
    plain = _plain_bert(folder)
    if not as_released and {_TYPES, _POSITIONS} <= plain.keys():
        plain[_POSITIONS] = plain[_POSITIONS].float() + plain[_TYPES][0].float()
    tensors: dict[str, Tensor] = {}
    for name, value in plain.items():
        if name.startswith("cls."):
            tensors[f"text_decoder.{name}"] = value
        else:
            tensors |= {f"{stack}.{name}": value for stack in _STACKS}
    tensors = layouts.without_copies(tensors, str(folder))
    headless = _BIAS not in tensors
    slots = (
        slot
        for slot in layouts.text_slots(model.config, ROLES)
        if ".cross_attention." not in slot.ours and not (headless and slot.ours.startswith("text.head."))
    )
    return _grown(tensors, model, folder), slots


def _plain_bert(folder: Path) -> dict[str, Tensor]:
    """A BERT's tensors under the names of transformers' `BertModel` of today."""
    tensors = {}
    for name, value in read_tensors(folder).items():
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        tensors[name.removeprefix("bert.")] = value
    return tensors


def _grown(tensors: Mapping[str, Tensor], model: BlipPretrain, folder: Path) -> dict[str, Tensor]:
    """With rows for the new tokens, as fresh as the model's own, and with as many positions as the model has.

    Raises:
        ModelError: the vocabulary is not the tokenizer's.
    """
    grown, text = dict(tensors), model.config.text
    known = text.vocab_size - len(BLIP_TOKENS)
    fresh = model.text.words.weight.detach()[known:]
    for stack in _STACKS:
        words, positions = (f"{stack}.embeddings.{name}_embeddings.weight" for name in ("word", "position"))
        if words in grown and grown[words].shape[0] != known:
            raise ModelError(
                f"{folder} has {grown[words].shape[0]} tokens, the tokenizer {known} without [DEC] and [ENC]: "
                "set tokenizer.vocab_file to the vocabulary that came with it"
            )
        if words in grown and grown[words].shape[1] == text.width:  # else it is refused with all that does not fit
            grown[words] = torch.cat([grown[words].float(), fresh])
        if positions in grown:
            grown[positions] = grown[positions][: text.max_positions]
    if _BIAS in grown:
        grown[_BIAS] = torch.cat([grown[_BIAS].float(), torch.zeros(len(BLIP_TOKENS))])
    return grown
