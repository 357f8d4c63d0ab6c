"""What decides an image's chance, and what does not."""

from components.common.contracts import ModelRef
from components.regeneration.config import CapfiltConfig
from components.regeneration.plan import Plan, WebInput
from components.regeneration.seeds import caption_seeds, coin_seed, stream_of

FILTER = ModelRef(role="filter", uri="/f", digest="f")


def stream(captioner: str = "c", web: str = "w", **settings: object) -> str:
    captioning = ModelRef(role="captioner", uri="/c", digest=captioner)
    return Plan(WebInput("/web", web, ()), captioning, FILTER, CapfiltConfig(**settings)).stream


def test_what_draws_is_the_captioner_with_its_seed_and_decoding() -> None:
    base = stream()
    for same in ({"web": "more"}, {"threshold": 0.9}, {"policy": "replace"}, {"captions_per_image": 2}, {"limit": 3}):
        assert stream(**same) == base, same
    others = [stream("d"), stream(seed=1), stream(decoding={"top_p": 0.5}), stream(decoding={"prompt": "a photo of "})]
    assert len({base, *others}) == 5
    assert base == stream_of("c", CapfiltConfig().effective())


def test_key_image_and_number_decide_a_seed() -> None:
    seeds = caption_seeds("s", "k", "i", 3)
    assert caption_seeds("s", "k", "i", 2) == seeds[:2] and len(set(seeds)) == 3
    others = [caption_seeds(*parts, 1)[0] for parts in (("t", "k", "i"), ("s", "l", "i"), ("s", "k", "j"))]
    assert len({*seeds, *others, coin_seed("s", "k", "i")}) == 7
