"""Models and processors of other families, loaded by transformers: safetensors alone, nothing of their own code.

The only importer of transformers.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.common.errors import ModelError
from components.inference.arithmetic import Arithmetic
from components.model.checkpoints.tensors import INDEX_FILE, WEIGHTS_FILE, read_tensors
from components.model.config import DecodingConfig

_SAFE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
_TOKEN_IDS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
)


def load_model(folder: Path, auto: str, arithmetic: Arithmetic) -> Any:
    """A model by one of transformers' auto classes, whole, on its device.

    Its weights are read as they are kept: cast later, tables that are no weights (frequencies of positions) would be
    coarse too, and the host would hold them in fp32 before.

    Raises:
        ModelError: its weights are pickles, lack parts of such a model, or transformers cannot read it.
    """
    import transformers

    if not (folder / WEIGHTS_FILE).is_file() and not (folder / INDEX_FILE).is_file():
        read_tensors(folder)  # says what is there instead
    with _readable(folder), _quiet():
        model, found = getattr(transformers, auto).from_pretrained(
            folder, output_loading_info=True, use_safetensors=True, dtype=arithmetic.weights, **_SAFE
        )
    missing = sorted({*found["missing_keys"], *(str(one) for one in found["mismatched_keys"])})
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} weights of a {type(model).__name__} are missing or of another shape "
            f"({', '.join(missing[:5])} …): it is another kind of model, or damaged; give one that was saved as this"
        )
    return arithmetic.at_rest(model)


def load_processor(folder: Path, still: str = "") -> Any:
    """The processor of a folder, images by Pillow, whatever else is installed: other libraries give other pixels.

    Args:
        folder: the model's folder.
        still: class of the processor, made of tokenizer and image part alone, without the one for video.

    Raises:
        ModelError: it cannot be read.
    """
    import transformers

    with _readable(folder), _quiet():
        if not still:
            return transformers.AutoProcessor.from_pretrained(folder, backend="pil", **_SAFE)
        kind = _without_video(getattr(transformers, still))
        processor = kind.from_pretrained(folder, backend="pil", **_SAFE)
        processor.chat_template = processor.chat_template or processor.tokenizer.chat_template
        return processor


def _without_video(kind: Any) -> Any:
    """The class, asking for no video part: transformers makes it out of torchvision alone."""

    class Still(kind):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [one for one in super().get_attributes() if one != "video_processor"]

    return Still


def own_settings_dropped(model: Any) -> dict[str, Any]:
    """Take a model's generation settings away, so that none is applied unnoticed; its token ids, which remain.

    The forced end token goes with the settings: it would make a text that was cut look like one that ended.
    """
    import transformers

    ids = {name: getattr(model.generation_config, name, None) for name in _TOKEN_IDS}
    ids = {name: value for name, value in ids.items() if value is not None}
    for module in model.modules():
        if getattr(module, "generation_config", None) is not None:
            module.generation_config = transformers.GenerationConfig()
    return ids


def generation(
    decoding: DecodingConfig, ids: Mapping[str, Any], *, written_from: int, choose: Any = None
) -> dict[str, Any]:
    """What `generate` is to be called with, so that nothing is left for it to take from elsewhere.

    Args:
        decoding: how; lengths are new tokens.
        ids: the model's token ids.
        written_from: tokens before what is written: of those a penalty for repetition knows nothing, lest it hang on
            how far a row was padded.
        choose: called with tokens and scores at every step, leaves the token that was drawn; None: the likeliest.
    """
    from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

    steps = LogitsProcessorList()
    if decoding.repetition_penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty, prompt_ignore_length=written_from))
    if choose is not None:
        steps.append(choose)
    beam = decoding.method == "beam"
    config = GenerationConfig(
        do_sample=False,
        num_beams=decoding.beams if beam else 1,
        length_penalty=decoding.length_penalty if beam else None,
        max_new_tokens=decoding.max_length,
        min_new_tokens=decoding.min_length,
        **ids,
    )
    return {"generation_config": config, "logits_processor": steps}


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"{folder}: transformers cannot read it: {type(error).__name__}: {error}; copy it again from its source"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and notes, which would lie across our own."""
    from transformers.utils import logging as noise

    level, bars = noise.get_verbosity(), noise.is_progress_bar_enabled()
    noise.set_verbosity(logging.ERROR)
    noise.disable_progress_bar()
    try:
        yield
    finally:
        noise.set_verbosity(level)
        if bars:
            noise.enable_progress_bar()
