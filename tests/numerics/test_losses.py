"""Losses and their gradients against formulas written out by hand, element by element, in float64."""

import math

import pytest
import torch

from components.model import objectives as ours

B, Q, D = 5, 7, 6


@pytest.fixture
def features() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def rows(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, D, generator=generator, dtype=torch.float64), dim=1)

    names = {"image": B, "text": B, "image_keys": B + Q, "text_keys": B + Q}
    return {name: rows(count) for name, count in names.items()}


def log_softmax(row: list[torch.Tensor]) -> list[torch.Tensor]:
    top = max(value.item() for value in row)
    total = sum((value - top).exp() for value in row)
    return [value - top - torch.log(total) for value in row]


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return sum((a[i] * b[i] for i in range(len(a))), torch.zeros((), dtype=a.dtype))


def one_way_contrast(queries, teachers, keys, targets, temperature, alpha):
    """docs/facts.md 5, for one direction."""
    total = torch.zeros((), dtype=torch.float64)
    for b in range(len(queries)):
        student = log_softmax([dot(queries[b], key) / temperature for key in keys])
        teacher = log_softmax([dot(teachers[b], key) / temperature.detach() for key in keys])
        for j in range(len(keys)):
            weight = alpha * teacher[j].detach().exp() + (1 - alpha) * targets[b][j]
            total = total - weight * student[j]
    return total / len(queries)


def hand_targets(ids: list[int], key_ids: list[int], joint: bool) -> list[list[float]]:
    if not joint:
        return [[1.0 if i == j else 0.0 for j in range(len(key_ids))] for i in range(len(ids))]
    return [[(1.0 / key_ids.count(i) if i == k else 0.0) for k in key_ids] for i in ids]


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("joint", [True, False])
def test_contrast_and_its_gradients(features: dict[str, torch.Tensor], alpha: float, joint: bool) -> None:
    ids = [11, 12, 11, 13, 14]
    key_ids = [*ids, 12, -100, -100, 11, 99, -100, 14]
    results = []
    for independent in (False, True):
        image, text = (features[name].clone().requires_grad_() for name in ("image", "text"))
        temperature = torch.tensor([0.07], dtype=torch.float64, requires_grad=True)
        if independent:
            targets = hand_targets(ids, key_ids, joint)
            i2t = one_way_contrast(image, features["image_keys"], features["text_keys"], targets, temperature[0], alpha)
            t2i = one_way_contrast(text, features["text_keys"], features["image_keys"], targets, temperature[0], alpha)
            loss = (i2t + t2i) / 2
        else:
            hard = ours.itc_targets(torch.tensor(ids), torch.tensor(key_ids), joint_positives=joint)
            keys = features["image_keys"], features["text_keys"]
            loss = ours.itc_loss(image, text, *keys, hard, temperature, alpha).loss
        loss.backward()
        results.append((loss.detach(), image.grad, text.grad, temperature.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


def test_contrast_at_chance() -> None:
    same = torch.nn.functional.normalize(torch.ones(4, 8, dtype=torch.float64), dim=1)
    keys = same[:1].expand(4 + 96, 8)
    hard = ours.itc_targets(torch.arange(4), torch.arange(100), joint_positives=True)
    loss = ours.itc_loss(same, same, keys, keys, hard, torch.tensor([0.07], dtype=torch.float64), 0.4).loss
    assert loss.item() == pytest.approx(math.log(4 + 96))


def test_contrast_is_computed_in_fp32_under_autocast(features: dict[str, torch.Tensor]) -> None:
    rows = {name: values.float() for name, values in features.items()}
    hard = ours.itc_targets(torch.arange(B), torch.arange(B + Q), joint_positives=True)
    arguments = (*rows.values(), hard, torch.tensor([0.01]), 0.4)
    expected = ours.itc_loss(*arguments).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours.itc_loss(*arguments).loss.item() == expected.item()


def test_alpha_ramp() -> None:
    assert [ours.alpha_at(epoch, 0.4, 2) for epoch in (0, 0.5, 2, 7)] == pytest.approx([0, 0.1, 0.4, 0.4])
    assert ours.alpha_at(0, 0.4, 0) == 0.4


def test_negatives_are_never_of_the_same_image() -> None:
    ids = torch.tensor([1, 1, 2, 3, 3, 4])
    forbidden = ours.same_image(ids, ids)
    similarity = torch.zeros(6, 6).masked_fill(forbidden, 50.0)  # the forbidden ones are by far the likeliest
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack(
        [ours.hard_negative_indices(similarity, forbidden, generator=generator).chosen for _ in range(300)]
    )
    assert not (ids[drawn] == ids[None]).any()
    for row in range(6):  # and every allowed one comes up
        assert set(drawn[:, row].tolist()) == set((ids != ids[row]).nonzero().flatten().tolist())


def test_negatives_follow_the_softmax() -> None:
    similarity = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20_000, 4)
    forbidden = torch.tensor([[True, False, False, False]]).expand(20_000, 4)
    drawn = ours.hard_negative_indices(similarity, forbidden, generator=torch.Generator().manual_seed(1)).chosen
    weights = [math.exp(value) / sum(map(math.exp, (0, 1, 2, -1))) + 1e-4 for value in (1, 2, -1)]
    expected = torch.tensor([0.0, *(weight / sum(weights) for weight in weights)])
    assert torch.bincount(drawn, minlength=4) / 20_000 == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("ids", [[7], [7, 7, 7]])
def test_a_batch_of_one_image_has_no_negatives_and_does_not_crash(ids: list[int]) -> None:
    rows = torch.tensor(ids)
    drawn = ours.hard_negative_indices(torch.randn(len(ids), len(ids)), ours.same_image(rows, rows))
    assert not drawn.valid.any()
    labels = ours.itm_labels(drawn.valid, drawn.valid)
    assert labels.tolist() == [1] * len(ids) + [-100] * 2 * len(ids)
    logits = torch.randn(3 * len(ids), 2, requires_grad=True)
    loss = ours.itm_loss(logits, labels)
    expected = torch.nn.functional.cross_entropy(logits[: len(ids)], labels[: len(ids)])
    torch.testing.assert_close(loss, expected)


def test_not_a_number_reaches_the_loss_rather_than_the_sampler() -> None:
    forbidden = torch.eye(3, dtype=torch.bool)
    assert not ours.hard_negative_indices(torch.full((3, 3), math.nan), forbidden).valid.any()


def test_matching_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    valid = torch.tensor([True, True, False]), torch.tensor([True, False, True])
    labels = ours.itm_labels(*valid)
    assert labels.tolist() == [1, 1, 1, 0, 0, -100, 0, -100, 0]
    mine = start.clone().requires_grad_()
    ours.itm_loss(mine, labels).backward()
    hand = start.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):
        if label != -100:
            total = total + torch.log(1 + torch.exp(hand[row][1 - label] - hand[row][label]))
    (total / 7).backward()
    torch.testing.assert_close(mine.grad, hand.grad)
    torch.testing.assert_close(ours.itm_loss(start, labels), (total / 7).detach())
    right = sum(int(start[row].argmax()) == label for row, label in enumerate(labels.tolist()) if label != -100)
    assert ours.itm_accuracy(start, labels).item() == pytest.approx(right / 7)


def test_matching_at_the_class_prior() -> None:
    labels = ours.itm_labels(torch.ones(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool))
    prior = torch.tensor([math.log(2 / 3), math.log(1 / 3)]).expand(12, 2)
    assert ours.itm_loss(prior, labels).item() == pytest.approx(ours.ITM_PRIOR_LOSS) == pytest.approx(0.6365, abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_language_model_and_its_gradient(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(7)
    vocab, rows, length = 11, 3, 6
    start = torch.randn(rows, length, vocab, generator=generator, dtype=torch.float64)
    ids = torch.randint(1, vocab, (rows, length), generator=generator)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 2 + [0] * 4])
    targets = ours.lm_targets(ids, mask, prompt_length=2)
    assert targets[2].tolist() == [-100] * 6 and targets[1, 2:4].tolist() == ids[1, 2:4].tolist()

    mine = start.clone().requires_grad_()
    result = ours.lm_loss(mine, targets, smoothing)
    result.loss.backward()

    hand = start.clone().requires_grad_()
    smoothed, plain, count = torch.zeros((), dtype=torch.float64), 0.0, 0
    for b in range(rows):
        for t in range(1, length):
            word = targets[b, t].item()
            if word == -100:
                continue
            scores = log_softmax(list(hand[b, t - 1]))
            for v in range(vocab):
                wanted = (1 - smoothing) * (v == word) + smoothing / vocab
                smoothed = smoothed - wanted * scores[v]
            plain, count = plain - scores[word].item(), count + 1
    (smoothed / count).backward()
    torch.testing.assert_close(result.loss.detach(), (smoothed / count).detach())
    torch.testing.assert_close(mine.grad, hand.grad)
    assert result.nll.item() == pytest.approx(plain / count)
    assert not result.nll.requires_grad


def test_language_model_without_any_target_is_zero() -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    result = ours.lm_loss(logits, torch.full((2, 3), -100), 0.1)
    result.loss.backward()
    assert result.loss.item() == 0.0 and logits.grad is not None and not logits.grad.any()


def test_floor_of_the_smoothed_loss() -> None:
    """The entropy of a smoothed target, which the best of predictions cannot undercut."""
    other = 0.1 / 30524
    floor = -(0.9 + other) * math.log(0.9 + other) - 30523 * other * math.log(other)
    assert floor == pytest.approx(1.358, abs=5e-4)
    best = torch.full((1, 1, 30524), other, dtype=torch.float64)
    best[0, 0, 5] += 0.9
    logits = torch.cat([best.log(), torch.zeros_like(best)], dim=1)
    assert ours.lm_loss(logits, torch.tensor([[0, 5]]), 0.1).loss.item() == pytest.approx(floor)
