"""Decoding by itself; equality with transformers is in test_against_transformers.py."""

import pytest
import torch

from components.common.errors import ConfigError, ModelError
from components.common.seeding import key_seed
from components.model.blip import BlipCaptioner
from components.model.config import BlipConfig, DecodingConfig, TextConfig, VisionConfig
from components.model.decoding import generate, sample_nucleus

PROMPT = [58, 5, 6]
SEP = 2
CONFIG = BlipConfig(
    vision=VisionConfig(image_size=32, patch_size=8, width=24, depth=2, heads=3),
    text=TextConfig(
        vocab_size=60, width=32, depth=2, heads=4, intermediate=64, max_positions=40,
        cls_id=1, sep_id=SEP, dec_id=58, enc_id=59,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> BlipCaptioner:
    torch.manual_seed(0)
    model = BlipCaptioner(CONFIG).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(0, 0.2)
        model.text.head.bias[SEP] += 2.0  # texts end early, at different lengths
    return model


@pytest.fixture(scope="module")
def image_kv(model):
    with torch.no_grad():
        return model.encode_images(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def seeds(count: int, salt: str = "") -> list[int]:
    return [key_seed(salt, row) for row in range(count)]


def test_a_rows_text_hangs_on_its_image_and_seed_alone(model, image_kv):
    config = DecodingConfig(min_length=0)
    together = generate(model, image_kv, PROMPT, config, seeds(16))
    assert len({len(row) for row in together}) > 3
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    shuffled = generate(model, image_kv.select(order), PROMPT, config, [seeds(16)[row] for row in order])
    assert shuffled == [together[row] for row in order]
    for row in range(16):
        assert generate(model, image_kv.select(torch.tensor([row])), PROMPT, config, seeds(16)[row : row + 1]) == [
            together[row]
        ]
    assert generate(model, image_kv, PROMPT, config, seeds(16, "other")) != together


def test_several_texts_per_image(model, image_kv):
    config = DecodingConfig(min_length=0)
    three = generate(model, image_kv, PROMPT, config, seeds(48))
    for copy in range(3):
        assert generate(model, image_kv, PROMPT, config, seeds(48)[copy::3]) == three[copy::3]


def test_a_narrow_nucleus_is_greedy(model, image_kv):
    greedy = generate(model, image_kv, PROMPT, DecodingConfig(method="greedy"))
    assert generate(model, image_kv, PROMPT, DecodingConfig(top_p=1e-6), seeds(16)) == greedy
    assert generate(model, image_kv, PROMPT, DecodingConfig(top_k=1), seeds(16)) == greedy
    assert generate(model, image_kv, PROMPT, DecodingConfig(temperature=1e-4), seeds(16)) == greedy
    assert generate(model, image_kv, PROMPT, DecodingConfig(method="beam", beams=1)) == greedy


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_lengths_count_the_prompt(model, image_kv, method):
    config = DecodingConfig(method=method, min_length=8, max_length=12)
    written = generate(model, image_kv, PROMPT, config, seeds(16))
    lengths = [len(PROMPT) + len(row) for row in written]
    assert min(lengths) >= 8 and max(lengths) <= 12
    assert all(SEP not in row for row in written)


def test_repetition_penalty_makes_texts_vary(model, image_kv):
    def repeats(penalty: float) -> int:
        config = DecodingConfig(method="greedy", min_length=16, max_length=16, repetition_penalty=penalty)
        return sum(len(row) - len(set(row)) for row in generate(model, image_kv, PROMPT, config))

    assert repeats(3.0) < repeats(1.0)


def test_beams_find_likelier_texts_than_greed(model, image_kv):
    def log_probability(rows: list[list[int]]) -> float:
        total = 0.0
        for index, row in enumerate(rows):
            ids = torch.tensor([[*PROMPT, *row]])
            logits = model.logits(ids, None, image_kv.select(torch.tensor([index])))
            steps = logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
            total += steps.gather(1, ids[0, len(PROMPT) :, None]).sum().item()
        return total

    settings = {"min_length": 10, "max_length": 10}
    greedy = generate(model, image_kv, PROMPT, DecodingConfig(method="greedy", **settings))
    beams = generate(model, image_kv, PROMPT, DecodingConfig(method="beam", beams=4, **settings))
    with torch.no_grad():
        assert log_probability(beams) > log_probability(greedy)


def test_what_does_not_fit_is_refused(model, image_kv):
    with pytest.raises(ConfigError, match="one seed"):
        generate(model, image_kv, PROMPT, DecodingConfig())
    with pytest.raises(ConfigError, match="equally many"):
        generate(model, image_kv, PROMPT, DecodingConfig(), seeds(17))
    with pytest.raises(ConfigError, match="one text per image"):
        generate(model, image_kv, PROMPT, DecodingConfig(method="beam"), seeds(32))
    with pytest.raises(ConfigError, match="no room"):
        generate(model, image_kv, [58] * 20, DecodingConfig(), seeds(16))
    with pytest.raises(ModelError, match="eval"):
        generate(BlipCaptioner(CONFIG), image_kv, PROMPT, DecodingConfig(), seeds(16))
    nobody = image_kv.select(torch.tensor([], dtype=torch.int64))
    assert generate(model, nobody, PROMPT, DecodingConfig(), []) == []


def spread_uniforms(count: int) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


@pytest.mark.parametrize("vocabulary", [40, 2_000])
@pytest.mark.parametrize(("top_p", "sharpness"), [(0.9, 3.0), (0.9, 0.1), (0.3, 1.0), (1.0, 1.0)])
def test_draws_follow_the_nucleus(vocabulary, top_p, sharpness):
    """Against the definition, written out: narrow nuclei and ones wider than the candidates looked at first."""
    generator = torch.Generator().manual_seed(vocabulary)
    probabilities = (torch.randn(vocabulary, generator=generator, dtype=torch.float64) * sharpness).softmax(0)
    mass, nucleus = 0.0, []
    for token in probabilities.argsort(descending=True).tolist():
        if mass >= top_p:
            break
        nucleus.append(token)
        mass += probabilities[token].item()
    draws = 400 * min(vocabulary, 10)
    drawn = sample_nucleus(probabilities.float().expand(draws, -1), top_p, spread_uniforms(draws))
    shares = torch.bincount(drawn, minlength=vocabulary) / draws
    expected = torch.zeros(vocabulary, dtype=torch.float64)
    expected[nucleus] = probabilities[nucleus] / mass
    torch.testing.assert_close(shares.double(), expected, atol=2 / draws, rtol=0.0)


def test_ties_are_drawn_the_same_in_any_company():
    probabilities = torch.full((1, 1_000), 1e-3)
    uniforms = spread_uniforms(50)
    alone = [sample_nucleus(probabilities, 0.5, uniforms[row : row + 1]).item() for row in range(50)]
    peaked = torch.zeros(50, 1_000)
    peaked[:, 3] = 1.0
    mixed = torch.cat([probabilities.expand(50, -1), peaked])
    together = sample_nucleus(mixed, 0.5, torch.cat([uniforms, uniforms]))
    assert together[:50].tolist() == alone
    assert together[50:].tolist() == [3] * 50


def test_the_ends_of_the_range_stay_in_the_nucleus():
    probabilities = torch.tensor([[0.0, 0.5, 0.3, 0.2, 0.0]]).expand(2, -1)
    edges = torch.tensor([0.0, 1.0 - 1e-16], dtype=torch.float64)
    assert sample_nucleus(probabilities, 0.9, edges).tolist() == [1, 3]
    assert sample_nucleus(probabilities, 0.6, edges).tolist() == [1, 2]


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_half_precision_writes_too(model, method):
    """Weights in bf16, and fp32 weights under autocast: mixed types meet in the cache."""
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    config = DecodingConfig(method=method, min_length=8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = generate(model, model.encode_images(pixels), PROMPT, config, seeds(4))
    half = BlipCaptioner(CONFIG)
    half.load_state_dict(model.state_dict())
    half = half.bfloat16().eval()
    with torch.no_grad():
        written = generate(half, half.encode_images(pixels), PROMPT, config, seeds(4))
    assert all(8 - len(PROMPT) <= len(row) <= 17 for row in [*mixed, *written])
