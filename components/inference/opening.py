"""A captioner or scorer from its folder, of whichever family it is."""

from pathlib import Path

from components.common.errors import ConfigError
from components.common.storage import Store
from components.inference.arithmetic import Arithmetic
from components.inference.captioner import Captioner
from components.inference.config import EndpointConfig
from components.inference.endpoint import EndpointCaptioner
from components.inference.families import BLIP, captioner_family, is_endpoint, scorer_family, settled_decoding
from components.inference.filter import Filter
from components.inference.protocols import AnyCaptioner, AnyScorer
from components.model.checkpoints.weights import load_captioner, load_filter
from components.model.config import DecodingConfig, PositionZero


def open_captioner(
    place: Path | str,
    decoding: DecodingConfig,
    arithmetic: Arithmetic,
    *,
    captions: int = 1,
    image_size: int | None = None,
    endpoint: EndpointConfig | None = None,
    answers: Store | None = None,
) -> AnyCaptioner:
    """Load a captioner.

    Args:
        place: its folder, or a server's address.
        decoding: how captions are decoded; what is not set is the family's own.
        arithmetic: device and precision.
        captions: how many an image is given.
        image_size: BLIP: side of the images in pixels, if not the model's own.
        endpoint: how a server is asked.
        answers: where a server's answers are kept.

    Raises:
        ModelError: no known family, or it does not load.
        ConfigError: the settings do not fit the family, or a server is named where none can be asked.
    """
    family = captioner_family(str(place))
    if is_endpoint(str(place)):
        if answers is None:
            raise ConfigError(f"{place}: a server is asked by `regenerate` alone, which has a place for its answers")
        how = endpoint or EndpointConfig()
        return EndpointCaptioner(str(place), settled_decoding(decoding, family, captions), how, answers)
    folder = Path(place)
    if family.name == BLIP:
        return Captioner(load_captioner(folder, image_size=image_size), decoding, arithmetic)
    from components.inference.transformers_captioner import TransformersCaptioner

    return TransformersCaptioner(folder, family, settled_decoding(decoding, family, captions), arithmetic)


def open_scorer(
    folder: Path,
    arithmetic: Arithmetic,
    *,
    name: str = "",
    image_size: int | None = None,
    position_zero: PositionZero | None = None,
    max_words: int = 30,
    max_tokens: int = 35,
) -> AnyScorer:
    """Load a scorer.

    Args:
        folder: its folder.
        arithmetic: device and precision.
        name: what its score is called, if not as its family says; BLIP's two have names of their own.
        image_size, position_zero, max_words, max_tokens: BLIP: as in Filter and load_filter.

    Raises:
        ModelError: no known family, or it does not load.
    """
    family = scorer_family(str(folder))
    if family.name == BLIP:
        loaded = load_filter(folder, image_size=image_size, position_zero=position_zero)
        return Filter(loaded, arithmetic, max_words=max_words, max_tokens=max_tokens)
    from components.inference.transformers_scorer import TransformersScorer

    return TransformersScorer(folder, family, arithmetic, name)
