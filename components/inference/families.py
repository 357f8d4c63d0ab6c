"""Families of models: who captions and who scores, by the `model_type` of their config.json, one registration each.

A family is in the tables only if the tests run a tiny random model of it. Code that comes with a model never runs, and
weights are read from safetensors alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal, TypeVar

from components.common.errors import ModelError
from components.common.storage import open_store
from components.data.scores import ITM, Kind
from components.model.config import DecodingConfig

BLIP = "blip"
F = TypeVar("F")
REVISION = 1
"""Raised when the same weights of another scorer than BLIP's, or the same server, would give other values or texts."""

WRITERS_REVISION = 2  # 2: positions in fp32 in any arithmetic
"""Raised when the same weights and settings of a captioner of another family than BLIP would give other texts."""

WHOLE_SIDE = 2048
"""Longest side in pixels of images for families that resize themselves: larger ones are shrunk first."""

ENDPOINT_SIDE, ENDPOINT_JPEG = 1024, 90
"""Longest side in pixels and JPEG quality of images that are sent to a server."""

Asking = Literal["blip", "chat", "task", "prefix", "nothing"]
_SHORT: Mapping[str, Any] = {"method": "greedy", "min_length": 0, "max_length": 40}


@dataclass(frozen=True)
class CaptionerFamily:
    """How captioners of a family are asked.

    Args:
        name: `model_type` in config.json.
        asks: `chat`: an instruction in the model's chat template; `task`: one of its task tokens; `prefix`: how the
            text starts; `nothing`: it takes no prompt.
        decoding: what is not set is this; lengths are new tokens.
        processor: its class, where transformers' own loading of it wants what stills do not need (a video part).
    """

    name: str
    asks: Asking
    decoding: Mapping[str, Any] = field(default_factory=dict)
    processor: str = ""


@dataclass(frozen=True)
class ScorerFamily:
    """How scorers of a family read texts, and what their logit becomes.

    Args:
        name: `model_type` in config.json.
        column: what its score is called unless it is given a name.
        kind: `probability` by the sigmoid or softmax that it was trained with, `cosine` by its temperature, `logit`
            as it is.
        length: tokens of a text that are read, at most.
        padding: `longest`, or `max_length` for those that were trained with it.
        lower: texts are read in small letters.
    """

    name: str
    column: str
    kind: Kind
    length: int = 0
    padding: Literal["longest", "max_length"] = "longest"
    lower: bool = False


_ASKED: Mapping[str, Any] = {**_SHORT, "max_length": 96, "prompt": "Describe this image in one short sentence."}
CAPTIONERS: dict[str, CaptionerFamily] = {
    family.name: family
    for family in (
        CaptionerFamily(BLIP, "blip"),
        CaptionerFamily("blip-2", "prefix", {**_SHORT, "prompt": ""}),
        CaptionerFamily("florence2", "task", {**_SHORT, "max_length": 64, "prompt": "<CAPTION>"}),
        CaptionerFamily("gemma3", "chat", _ASKED),
        CaptionerFamily("git", "nothing", {**_SHORT, "prompt": ""}),
        CaptionerFamily("idefics3", "chat", _ASKED),
        CaptionerFamily("internvl", "chat", _ASKED, processor="InternVLProcessor"),
        CaptionerFamily("llava", "chat", _ASKED),
        CaptionerFamily("qwen2_5_vl", "chat", _ASKED, processor="Qwen2_5_VLProcessor"),
        CaptionerFamily("qwen3_vl", "chat", _ASKED, processor="Qwen3VLProcessor"),
        # Its own processor wants video and num2words; of stills Idefics3's makes the same.
        CaptionerFamily("smolvlm", "chat", _ASKED, processor="Idefics3Processor"),
    )
}
SCORERS: dict[str, ScorerFamily] = {
    family.name: family
    for family in (
        ScorerFamily(BLIP, ITM, "probability"),
        ScorerFamily("blip-2", "blip2", "probability", length=32),
        ScorerFamily("clip", "clip", "cosine", length=77),
        ScorerFamily("siglip", "siglip", "probability", length=64, padding="max_length", lower=True),
        ScorerFamily("siglip2", "siglip2", "probability", length=64, padding="max_length", lower=True),
    )
}


ENDPOINT = CaptionerFamily("endpoint", "chat", _ASKED)
"""A captioner behind a server (endpoint.py), of whichever family it is there."""


def is_endpoint(place: str) -> bool:
    """Whether a place is a server's address."""
    return place.startswith(("http://", "https://"))


def captioner_family(uri: str) -> CaptionerFamily:
    """The family of a captioner's folder, or of a server's address.

    Raises:
        ModelError: there is no model, or none of a known family.
    """
    return ENDPOINT if is_endpoint(uri) else _known(CAPTIONERS, "captioner", uri)


def scorer_family(uri: str) -> ScorerFamily:
    """The family of a scorer's folder.

    Raises:
        ModelError: there is no model, or none of a known family.
    """
    return _known(SCORERS, "scorer", uri)


def engine_of(family: CaptionerFamily | ScorerFamily) -> dict[str, Any] | None:
    """What besides weights, processor files and settings decides a family's results; None for BLIP, which has all."""
    if family.name == BLIP:
        return None
    if family.name == ENDPOINT.name:
        images = f"jpeg {ENDPOINT_JPEG}, at most {ENDPOINT_SIDE}"
        return {"family": family.name, "revision": REVISION, "images": images}
    revision = WRITERS_REVISION if isinstance(family, CaptionerFamily) else REVISION
    how = {"family": family.name, "revision": revision, "images": f"pil, at most {WHOLE_SIDE}"}
    return {**how, "transformers": version("transformers")}


def settled_decoding(decoding: DecodingConfig, family: CaptionerFamily, captions: int = 1) -> DecodingConfig:
    """The decoding with the family's own values where nothing was set: what is written down is what is done.

    Args:
        decoding: as it was set.
        family: of the captioner.
        captions: of an image; several are drawn, whatever a family does for one.
    """
    if family.name == BLIP:
        return decoding
    own = {**family.decoding, **({"method": "nucleus"} if captions > 1 else {})}
    return DecodingConfig.model_validate({**own, **decoding.model_dump(include=decoding.model_fields_set)})


def _known(table: Mapping[str, F], role: str, uri: str) -> F:
    found = _model_type(uri)
    if found not in table:
        raise ModelError(
            f"{uri}: its config.json says model_type {found!r}, which is no {role} that is known here; known are "
            f"{', '.join(sorted(table))}. Code that comes with a model is never run"
        )
    return table[found]


def _model_type(uri: str) -> str:
    from components.model.checkpoints.folder import CONFIG_FILE
    from components.model.checkpoints.publishing import check_model_folder  # torch comes with it

    store = open_store(uri)
    check_model_folder(store)
    try:
        return str(json.loads(store.read(CONFIG_FILE))["model_type"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{uri}/{CONFIG_FILE} names no model_type: {error!r}; copy it again from its source"
        ) from error
