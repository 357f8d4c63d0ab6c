"""The objectives: gradients everywhere, what is counted, and what moves when."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from components.model.blip import BlipCaptioner, BlipFilter, BlipPretrain
from components.model.config import BlipConfig, TextConfig, VisionConfig
from components.model.groups import freeze
from components.model.learning import (
    CaptionObjective,
    FilterObjective,
    ModelBatch,
    Objective,
    PretrainObjective,
    language_loss,
)
from components.model.momentum import NO_IMAGE, Teacher
from components.model.objectives import lm_loss, lm_targets
from components.model.remembered import RememberedTokens
from components.model.vision import VisionTransformer

CONFIG = BlipConfig(
    vision=VisionConfig(image_size=32, patch_size=16, width=24, depth=2, heads=2),
    text=TextConfig(
        vocab_size=50, width=16, depth=2, heads=2, intermediate=32, max_positions=16, dropout=0.0,
        attention_dropout=0.0, pad_id=0, cls_id=1, sep_id=2, dec_id=48, enc_id=49,
    ),
    embed_dim=8,
    queue_size=10,
)  # fmt: skip


def batch(size: int = 4, length: int = 7, seed: int = 0, image_ids: list[int] | None = None) -> ModelBatch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 48, (size, length), generator=generator)
    ids[:, 0], ids[:, -1] = 1, 2
    mask = torch.ones_like(ids)
    ids[0, -2:], mask[0, -2:], ids[0, -3] = 0, 0, 2
    pixels = torch.randn(size, 3, 32, 32, generator=generator)
    return ModelBatch(pixels, ids, mask, torch.tensor(image_ids or list(range(100, 100 + size))), progress=0.7)


def objective(kind: str) -> Objective:
    torch.manual_seed(1)
    if kind == "captioner":
        return CaptionObjective(BlipCaptioner(CONFIG), prompt_length=2)
    return FilterObjective(BlipFilter(CONFIG)) if kind == "filter" else PretrainObjective(BlipPretrain(CONFIG))


PARTS = {
    "captioner": {"loss_lm", "nll_lm"},
    "filter": {"loss_itc", "loss_itm", "itm_accuracy", "itm_negatives", "temperature"},
    "pretrain": {"loss_itc", "loss_itm", "loss_lm", "nll_lm", "itm_accuracy", "itm_negatives", "temperature"},
}


@pytest.mark.parametrize("kind", PARTS)
def test_every_parameter_learns(kind: str) -> None:
    stage = objective(kind)
    results = stage(batch())
    assert set(results) == PARTS[kind] | {"loss"}
    results["loss"].backward()
    silent = [name for name, parameter in stage.named_parameters() if parameter.grad is None]
    assert not silent
    parts = sum(value for name, value in results.items() if name.startswith("loss_"))
    assert results["loss"].item() == pytest.approx(float(parts))
    assert all(not value.requires_grad and value.dim() == 0 for name, value in results.items() if name != "loss")


@pytest.mark.parametrize("kind", PARTS)
def test_an_objective_learns_a_batch_by_heart(kind: str) -> None:
    stage = objective(kind)
    stage.train()
    optimizer = torch.optim.AdamW(stage.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        loss = stage(batch())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stage.after_step()
        history.append(loss.item())
    assert min(history[-5:]) < 0.8 * history[0]


def test_teacher_stays_out_of_the_module() -> None:
    stage = objective("pretrain")
    model = sum(parameter.numel() for parameter in BlipPretrain(CONFIG).parameters())
    assert sum(parameter.numel() for parameter in stage.parameters()) == model
    assert not any("encoders" in name or "queue" in name for name in stage.state_dict())
    stage.bfloat16()
    assert all(value.dtype == torch.float32 for name, value in stage.teacher_state().items() if "encoders" in name)


def test_teacher_copies_no_more_than_it_runs() -> None:
    stage = objective("pretrain")
    names = [name for name in stage.teacher_state() if name.startswith("encoders")]
    assert not [name for name in names if "cross" in name or "decoder" in name or "head" in name]
    expected = BlipFilter(CONFIG)
    unused = [
        name
        for name, _ in expected.named_parameters()
        if "cross" in name or name.startswith("itm_head") or name == "temperature"
    ]
    assert len(names) == len(list(expected.named_parameters())) - len(unused)


def test_teacher_starts_as_the_student() -> None:
    stage = objective("pretrain").eval()
    one = batch()
    images, texts = stage.teacher.encoders.features(one.pixels, one.ids, one.mask)
    with torch.no_grad():
        torch.testing.assert_close(images, stage.model.image_features(one.pixels)[1])
        torch.testing.assert_close(texts, stage.model.text_features(one.ids, one.mask))


def test_teacher_advances_once_per_optimizer_step() -> None:
    stage = objective("filter").train()
    before = {name: value.clone() for name, value in stage.teacher_state().items()}
    for micro in range(3):
        stage(batch(size=2, seed=micro, image_ids=[micro * 2, micro * 2 + 1]))
    now = stage.teacher_state()
    assert all(torch.equal(now[name], before[name]) for name in before)  # nothing moves in forward
    with torch.no_grad():
        stage.model.vision_proj.weight.add_(1.0)
    stage.after_step()
    now = stage.teacher_state()
    assert now["queue.image_ids"].tolist() == [0, 1, 2, 3, 4, 5] + [NO_IMAGE] * 4
    moved = now["encoders.vision_proj.weight"] - before["encoders.vision_proj.weight"]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.005), rtol=1e-3, atol=1e-6)
    stage.after_step()
    assert int(stage.teacher_state()["queue.pointer"]) == 6  # enqueued once


def trained(stage: Objective, *, steps: int, shared: bool, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights, teacher and passes of the momentum vision encoder after some steps of a frozen vision encoder."""
    assert isinstance(stage, PretrainObjective | FilterObjective)
    freeze(stage, ["vision"])
    if not shared:
        monkeypatch.setattr(stage.teacher.encoders, "sees_alike", lambda: False)
    passes = []
    stage.teacher.encoders["vision_model"].register_forward_hook(lambda *_: passes.append(1))
    optimizer = torch.optim.AdamW([one for one in stage.parameters() if one.requires_grad], lr=1e-2)
    torch.manual_seed(5)
    for step in range(steps):
        optimizer.zero_grad()
        stage(batch(seed=step))["loss"].backward()
        optimizer.step()
        stage.after_step()
    return {**stage.state_dict(), **stage.teacher_state(), "passes": torch.tensor(len(passes))}


@pytest.mark.parametrize("kind", ["filter", "pretrain"])
def test_a_frozen_vision_encoder_is_run_once_for_student_and_teacher(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = trained(objective(kind), steps=4, shared=True, monkeypatch=monkeypatch)
    twice = trained(objective(kind), steps=4, shared=False, monkeypatch=monkeypatch)
    assert (int(once.pop("passes")), int(twice.pop("passes"))) == (0, 4)
    assert all(torch.equal(value, twice[name]) for name, value in once.items())


@pytest.mark.parametrize("kind", PARTS)
def test_remembered_images_are_looked_at_once_and_teach_the_same(kind: str) -> None:
    def trained_on(*, remembered: bool) -> tuple[dict[str, torch.Tensor], int]:
        stage, looks = objective(kind), []
        freeze(stage, ["vision"])
        vision = stage.model.vision_model
        assert isinstance(vision, VisionTransformer)
        vision.register_forward_hook(lambda _, pixels, __: looks.append(len(pixels[0])))
        stage.remembered = RememberedTokens(vision, 6) if remembered else None
        optimizer = torch.optim.SGD([one for one in stage.parameters() if one.requires_grad], lr=1e-2)
        torch.manual_seed(5)
        for rows in ([0, 1, 2, 3], [3, 4, 1, 5], [2, 5, 0, 4]):
            pixels = batch(6).pixels[rows]
            optimizer.zero_grad()
            stage(replace(batch(), pixels=pixels, image_ids=torch.tensor(rows)))["loss"].backward()
            optimizer.step()
            stage.after_step()
        return stage.state_dict(), sum(looks)

    (once, few), (anew, many) = trained_on(remembered=True), trained_on(remembered=False)
    assert (few, many) == (6, 12)
    for name, value in once.items():
        torch.testing.assert_close(value, anew[name], rtol=1e-4, atol=1e-6)


def test_what_is_remembered_does_not_depend_on_the_batch_it_came_in() -> None:
    vision = VisionTransformer(CONFIG.vision).eval()
    pixels, ids = batch(6).pixels, torch.arange(6)
    together, in_turns = RememberedTokens(vision, 6), RememberedTokens(vision, 6)
    for rows in ([5, 2], [0, 5, 1], [3, 4]):
        in_turns(pixels[rows], ids[rows])
    assert torch.equal(together(pixels, ids), in_turns(pixels, ids))


def test_a_teacher_that_sees_otherwise_runs_its_own_encoder() -> None:
    stage = objective("filter")
    assert isinstance(stage, FilterObjective)
    encoders = stage.teacher.encoders
    assert not encoders.sees_alike(), "the student may move"
    stage = objective("filter")
    assert isinstance(stage, FilterObjective)
    freeze(stage, ["vision"])
    assert stage.teacher.encoders.sees_alike()
    state = {name: value.clone() for name, value in stage.teacher_state().items()}
    state["encoders.vision_model.norm.bias"] += 1e-3
    stage.load_teacher_state(state)
    assert not stage.teacher.encoders.sees_alike(), "the checkpoint's teacher is another"


def test_evaluation_leaves_the_queue_alone() -> None:
    stage = objective("filter").eval()
    stage(batch())
    stage.after_step()
    assert set(stage.teacher_state()["queue.image_ids"].tolist()) == {NO_IMAGE}


def test_teacher_state_goes_round() -> None:
    first, second = objective("pretrain").train(), objective("pretrain").train()
    optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
    for seed in range(3):
        first(batch(seed=seed))["loss"].backward()
        optimizer.step()
        first.after_step()
    second.load_state_dict(first.state_dict())
    second.load_teacher_state({name: value.clone() for name, value in first.teacher_state().items()})
    losses = []
    for stage in (first, second):
        torch.manual_seed(9)
        losses.append(stage(batch(seed=7))["loss"].item())
    assert losses[0] == losses[1]


def test_temperature_is_kept_in_its_range() -> None:
    stage = objective("pretrain")
    for start, expected in ((9.0, 0.5), (-1.0, 0.001)):
        with torch.no_grad():
            stage.model.temperature.fill_(start)
        assert stage(batch())["temperature"].item() == pytest.approx(expected)


def test_teacher_weight_ramps_with_progress() -> None:
    stage = objective("filter").eval()
    one = batch()
    losses = []
    for progress in (0.0, 0.5, 1.0, 1.5):
        torch.manual_seed(0)
        losses.append(stage(ModelBatch(one.pixels, one.ids, one.mask, one.image_ids, progress))["loss_itc"].item())
    assert losses[2] == losses[3] and len(set(losses)) == 3
    steps = [after - before for before, after in pairwise(losses[:3])]
    assert steps[0] == pytest.approx(steps[1], rel=1e-3)


@pytest.mark.parametrize("image_ids", [[5], [5, 5, 5, 5]])
@pytest.mark.parametrize("kind", ["filter", "pretrain"])
def test_a_batch_of_one_image_trains(kind: str, image_ids: list[int]) -> None:
    stage = objective(kind)
    results = stage(batch(size=len(image_ids), image_ids=image_ids))
    results["loss"].backward()
    assert torch.isfinite(results["loss"])
    assert results["itm_negatives"] == 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in stage.parameters())


@pytest.mark.parametrize(("image_ids", "share"), [([1, 2, 3, 4], 1.0), ([5, 5, 6, 7], 1.0), ([5, 5, 5, 5], 0.0)])
def test_the_share_of_wrong_pairs_that_could_be_drawn_is_told(image_ids: list[int], share: float) -> None:
    assert objective("filter")(batch(image_ids=image_ids))["itm_negatives"] == pytest.approx(share)


def test_reference_may_call_a_right_caption_wrong() -> None:
    """Pre-training as BLIP's own code does it: of one image's four captions, three are negatives of the fourth."""
    one = batch(image_ids=[5, 5, 5, 5])
    quirky = PretrainObjective(BlipPretrain(CONFIG), same_image_negatives=True)
    similarity = torch.zeros(4, 4), torch.zeros(4, 4)
    image_kv, _ = quirky.model.image_features(one.pixels)
    assert quirky._match(one, image_kv, similarity)[1].tolist() == [1] * 4 + [0] * 8
    assert objective("pretrain")._match(one, image_kv, similarity)[1].tolist() == [1] * 4 + [-100] * 8
    across = quirky._forbidden(one.image_ids, torch.full((12,), 5), 4)  # the second of three processes
    assert across.nonzero().tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_teachers_dropout_is_off_unless_asked_for() -> None:
    noisy = CONFIG.with_text(dropout=0.3)
    one = batch()
    for dropout in (False, True):
        encoders = Teacher(BlipPretrain(noisy), dropout=dropout).encoders
        first, second = (encoders.features(one.pixels, one.ids, one.mask)[1] for _ in range(2))
        assert torch.equal(first, second) is not dropout


def test_matching_rows_are_the_pairs_they_are_labelled_as(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of rows in the one big match is the order of labels: scored one pair at a time, nothing differs."""
    stage = objective("filter").double().eval()
    one = batch()
    one = replace(one, pixels=one.pixels.double())
    seen: dict[str, torch.Tensor] = {}
    model = stage.model
    original = model.match_logits

    def spy(ids, mask, image_kv, image_index):
        seen.update(ids=ids, index=image_index)
        return original(ids, mask, image_kv, image_index)

    monkeypatch.setattr(model, "match_logits", spy)
    image_kv, embed = model.image_features(one.pixels)
    similarity = torch.randn(4, 4), torch.randn(4, 4)
    with torch.no_grad():
        logits, labels = stage._match(one, image_kv, similarity)
    monkeypatch.undo()
    assert labels.tolist() == [1] * 4 + [0] * 8
    hard_texts = seen["ids"][:8].view(4, 2, -1)[:, 1]
    for row in range(4):
        image = model.image_features(one.pixels[row : row + 1])[0]
        hard_image = model.image_features(one.pixels[seen["index"][row]][None])[0]
        text, mask = one.ids[row : row + 1], one.mask[row : row + 1]
        own = int((one.ids == hard_texts[row]).all(dim=1).nonzero())
        assert own != row and seen["index"][row] != row
        hard_mask = one.mask[own : own + 1]
        torch.testing.assert_close(logits[row], model.match_logits(text, mask, image)[0])
        torch.testing.assert_close(logits[4 + row], model.match_logits(text, mask, hard_image)[0])
        expected = model.match_logits(hard_texts[row][None], hard_mask, image)[0]
        torch.testing.assert_close(logits[8 + row], expected)


@pytest.mark.parametrize("prompt_length", [0, 3])
def test_language_loss_is_that_of_all_logits(prompt_length: int) -> None:
    model = BlipCaptioner(CONFIG).double()
    one = batch()
    image_kv = model.encode_images(one.pixels.double())
    mine = language_loss(model, one.ids, one.mask, image_kv, prompt_length=prompt_length)
    logits = model.logits(one.ids, one.mask, image_kv)
    whole = lm_loss(logits, lm_targets(one.ids, one.mask, prompt_length), CONFIG.label_smoothing)
    torch.testing.assert_close(mine.loss, whole.loss)
    torch.testing.assert_close(mine.nll, whole.nll)


@pytest.mark.parametrize("kind", [PretrainObjective, FilterObjective])
def test_negatives_can_be_drawn_less_hard(kind: type[PretrainObjective] | type[FilterObjective]) -> None:
    """Similarities 0.1 apart: at the learned temperature of 0.01 a factor of e^10, at 0.2 one of e^0.5."""
    model = BlipPretrain(CONFIG) if kind is PretrainObjective else BlipFilter(CONFIG)
    model.temperature.data.fill_(0.01)
    logits = torch.tensor([0.3, 0.2, 0.1]).expand(4000, 3) / model.temperature.detach()
    nothing = torch.zeros_like(logits, dtype=torch.bool)

    def shares(temperature: float | None) -> torch.Tensor:
        torch.manual_seed(0)
        chosen = kind(model, negative_temperature=temperature)._negatives(logits, nothing).chosen
        return chosen.bincount(minlength=3) / len(chosen)

    assert shares(None)[0] > 0.999
    assert torch.equal(shares(0.005), shares(None))  # a bound from below
    expected = torch.tensor([0.3, 0.2, 0.1]).div(0.2).softmax(0)
    torch.testing.assert_close(shares(0.2), expected, atol=0.03, rtol=0)
