from collections.abc import Iterator

import pytest
import torch

from components.common.errors import ModelError
from components.model.blip import BlipCaptioner, BlipFilter, BlipPretrain, BlipVqa
from components.model.config import BlipConfig, TextConfig, VisionConfig
from components.model.text import ImageKV, TextTransformer, with_first
from components.model.tokens import Tokens

TINY = TextConfig(
    vocab_size=50, width=32, depth=3, heads=4, intermediate=64, max_positions=40,
    cls_id=1, sep_id=2, dec_id=48, enc_id=49,
)  # fmt: skip
IMAGES = 4


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """What is equal but for the order of sums: in float64 1e-7 holds on every processor, and proves more."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def text() -> TextTransformer:
    torch.manual_seed(0)
    model = TextTransformer(TINY, memory_width=24).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    return model


@pytest.fixture
def image_kv(text) -> ImageKV:
    return text.project_images(torch.randn(IMAGES, 10, 24, generator=torch.Generator().manual_seed(1)))


def rows(count: int, length: int = 7) -> torch.Tensor:
    return torch.randint(3, 40, (count, length), generator=torch.Generator().manual_seed(count))


def test_padding_changes_nothing(text, image_kv):
    ids = rows(IMAGES)
    lengths = torch.tensor([7, 4, 5, 2])
    mask = torch.arange(7) < lengths[:, None]
    ids = ids.masked_fill(~mask, 0)
    long_ids = torch.nn.functional.pad(ids, (0, 23))
    long_mask = torch.nn.functional.pad(mask, (0, 23))
    torch.testing.assert_close(text.match(ids, mask, image_kv), text.match(long_ids, long_mask, image_kv))
    torch.testing.assert_close(text.encode(ids, mask), text.encode(long_ids, long_mask.long()))
    short, long = text.language_logits(ids, image_kv), text.language_logits(long_ids, image_kv)
    torch.testing.assert_close(short[mask], long[:, :7][mask])
    for row, length in enumerate(lengths.tolist()):
        alone = text.match(ids[row : row + 1, :length], None, image_kv.select(torch.tensor([row])))
        torch.testing.assert_close(text.match(ids, mask, image_kv)[row : row + 1], alone)


def test_leaving_padding_out_changes_no_gradient(text):
    """Packed rows against each row alone, where nothing is padded: gradients of what encoder and decoder compute."""
    lengths = [7, 4, 5, 2]
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    ids = rows(IMAGES).masked_fill(~mask, 0)
    memory = torch.randn(IMAGES, 10, 24)

    def gradients(parts: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]]) -> list[torch.Tensor]:
        text.zero_grad()
        for part_ids, part_mask, part_memory in parts:
            kv = text.project_images(part_memory)
            states = text.decode(part_ids, kv, mask=part_mask)
            if part_mask is not None:
                states = states[part_mask]
            (states.square().sum() + text.match(part_ids, part_mask, kv).square().sum()).backward()
        return [weight.grad.clone() for weight in text.parameters() if weight.grad is not None]

    alone = [(ids[row : row + 1, :length], None, memory[row : row + 1]) for row, length in enumerate(lengths)]
    for packed, single in zip(gradients([(ids, mask, memory)]), gradients(alone), strict=True):
        torch.testing.assert_close(packed, single)


def test_tokens_are_packed_and_spread():
    ids = torch.arange(8).view(2, 4)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    tokens = Tokens.of(ids, mask)
    assert tokens.pack(ids).tolist() == [0, 1, 2, 4, 5]
    assert tokens.spread(tokens.pack(ids)).tolist() == [[0, 1, 2, 0], [4, 5, 0, 0]]
    everything = Tokens.of(ids, torch.ones_like(mask))
    assert everything == Tokens.of(ids, None) == Tokens(2, 4)
    assert torch.equal(everything.spread(everything.pack(ids)), ids)


def test_a_mask_that_hides_nothing_is_as_none(text, image_kv):
    ids = rows(IMAGES)
    assert torch.equal(text.encode(ids, torch.ones_like(ids)), text.encode(ids))


def test_rows_by_image_equal_rows_by_index(text, image_kv):
    ids = rows(2 * IMAGES)
    order = torch.arange(IMAGES).repeat_interleave(2)
    by_image = text.match(ids, None, image_kv)
    torch.testing.assert_close(by_image, text.match(ids, None, image_kv, order))
    torch.testing.assert_close(by_image, text.match(ids, None, image_kv.select(order)))


def test_rows_by_image_and_by_index_in_one_call(text, image_kv):
    ids = rows(3 * IMAGES)
    images = torch.tensor([2, 0, 3, 3])
    together = text.match(ids, None, image_kv, images)
    torch.testing.assert_close(together[: 2 * IMAGES], text.match(ids[: 2 * IMAGES], None, image_kv))
    torch.testing.assert_close(together[2 * IMAGES :], text.match(ids[2 * IMAGES :], None, image_kv, images))
    assert not torch.allclose(together[2 * IMAGES :], text.match(ids[2 * IMAGES :], None, image_kv))


def test_rows_that_fit_no_image_are_refused(text, image_kv):
    for count, index in ((IMAGES + 1, None), (IMAGES, torch.tensor([0]))):
        with pytest.raises(ModelError, match="evenly"):
            text.match(rows(count), None, image_kv, index)
    with pytest.raises(ModelError, match="evenly"):
        text.decode(rows(IMAGES + 1), image_kv)


def test_first_state_equals_that_of_all_states(text, image_kv):
    ids = rows(IMAGES)
    torch.testing.assert_close(text.match(ids, None, image_kv), text.states(ids, None, image_kv)[:, 0])


def test_cache_changes_nothing(text, image_kv):
    ids = rows(2 * IMAGES)
    whole = text.decode(ids, image_kv)
    cache = text.new_cache(2 * IMAGES, 7)
    parts = [ids[:, :3], ids[:, 3:4], ids[:, 4:5], ids[:, 5:]]
    torch.testing.assert_close(torch.cat([text.decode(part, image_kv, cache) for part in parts], dim=1), whole)


def test_cache_rows_follow_their_order(text, image_kv):
    ids = rows(IMAGES)
    cache = text.new_cache(IMAGES, 7)
    text.decode(ids[:, :6], image_kv, cache)
    order = torch.tensor([3, 1])
    cache.select(order)
    last = text.decode(ids[order, 6:], image_kv.select(order), cache)
    torch.testing.assert_close(last, text.decode(ids, image_kv)[order, 6:])


def test_decoder_sees_nothing_that_comes_later(text, image_kv):
    ids = rows(IMAGES)
    changed = ids.clone()
    changed[:, 5] = 41
    before, after = text.decode(ids, image_kv), text.decode(changed, image_kv)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_image_mask_hides_tokens(text):
    memory = torch.randn(IMAGES, 10, 24)
    mask = torch.arange(10) < torch.tensor([10, 6, 6, 3])[:, None]
    noisy = torch.where(mask[:, :, None], memory, torch.randn(IMAGES, 10, 24))
    ids = rows(IMAGES)
    first, second = (text.decode(ids, text.project_images(tokens, mask)) for tokens in (memory, noisy))
    torch.testing.assert_close(first, second)
    index = torch.tensor([3, 2, 1, 0])
    kv = text.project_images(memory, mask)
    torch.testing.assert_close(text.match(ids, None, kv, index), text.match(ids, None, kv.select(index)))


def test_a_text_that_is_too_long_is_refused(text):
    with pytest.raises(ModelError, match="40 positions"):
        text.encode(rows(2, 41))
    with pytest.raises(ModelError, match="40 positions"):
        text.new_cache(2, 41)


def test_roles_share_all_but_self_attention(text):
    names = [name for name, _ in text.named_parameters()]
    encoder = {name for name in names if "encoder_attention" in name}
    decoder = {name for name in names if "decoder_attention" in name or name.startswith("head.")}
    assert len(encoder) == 3 * 6 and len(decoder) == 3 * 6 + 5
    kv = text.project_images(torch.randn(2, 10, 24))
    text.match(rows(2), None, kv).sum().backward()
    used = {name for name, weight in text.named_parameters() if weight.grad is not None}
    assert used == set(names) - decoder
    text.zero_grad()
    kv = text.project_images(torch.randn(2, 10, 24))
    text.language_logits(rows(2), kv).sum().backward()
    used = {name for name, weight in text.named_parameters() if weight.grad is not None}
    assert used == set(names) - encoder


def test_dropout_works_in_training_alone(text, image_kv):
    ids = rows(IMAGES)
    assert torch.equal(text.match(ids, None, image_kv), text.match(ids, None, image_kv))
    text.train()
    assert not torch.equal(text.match(ids, None, image_kv), text.match(ids, None, image_kv))
    still = TextTransformer(TINY.model_copy(update={"dropout": 0.0, "attention_dropout": 0.0}), memory_width=24).train()
    kv = still.project_images(torch.randn(IMAGES, 10, 24))
    assert torch.equal(still.match(ids, None, kv), still.match(ids, None, kv))


def test_with_first_copies():
    ids = torch.tensor([[1, 5, 2]])
    assert with_first(ids, 9).tolist() == [[9, 5, 2]]
    assert ids.tolist() == [[1, 5, 2]]


def test_joined_image_batches(text, image_kv):
    halves = [image_kv.select(torch.tensor([0, 1])), image_kv.select(torch.tensor([2, 3]))]
    joined = ImageKV.cat(halves)
    assert joined.images == IMAGES
    assert all(torch.equal(a, b) for a, b in zip(joined.layers, image_kv.layers, strict=True))


def count(*models: torch.nn.Module) -> float:
    """Million parameters, rounded as the paper does."""
    return round(sum(weight.numel() for model in models for weight in model.parameters()) / 1e6, 2)


def test_parameter_counts_of_the_paper():
    """docs/facts.md 4, and the paper's Table 3: 224M shared, 252M all but self-attention, 361M nothing."""
    base = BlipConfig()
    large = BlipConfig(vision=VisionConfig(width=1024, depth=24, heads=16))
    with torch.device("meta"):
        model = BlipPretrain(base)
        encoder = TextTransformer(base.text, ("encoder",), base.vision.width)
        decoder = TextTransformer(base.text, ("decoder",), base.vision.width)
        heads = (model.vision_proj, model.text_proj, model.itm_head)
        assert count(model) == 252.44
        assert count(model.vision_model) == 85.80
        assert count(encoder) == 137.26
        assert count(model.vision_model, encoder, model.text.head, *heads) == 224.08
        assert count(model.vision_model, encoder, decoder, *heads) == 361.33
        assert count(*(layer.decoder_attention for layer in model.text.layers)) == 28.37
        assert count(BlipCaptioner(base)) == count(model.vision_model, decoder)
        assert count(BlipFilter(base)) == count(model.vision_model, encoder, *heads) == 223.45
        assert count(BlipPretrain(large)) == pytest.approx(474.7, abs=0.05)
        assert count(BlipVqa(base)) == count(model.vision_model, encoder, decoder)
