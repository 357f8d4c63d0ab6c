"""Losses, gradients and the queue on two processes, beside one process that writes the formulas out for both."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from tests.helpers.contrast_ranks import CONFIG, IMAGE_IDS, batch_of, objective_of

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def run_two(kind: str, folder: Path) -> list[dict[str, torch.Tensor]]:
    command = [sys.executable, "-m", "tests.helpers.contrast_ranks", kind]
    ranks = [subprocess.Popen([*command, str(rank), "2", str(folder)]) for rank in range(2)]
    try:
        assert [process.wait(120) for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def hardest(similarity: torch.Tensor, row_ids: list[int], column_ids: list[int]) -> list[int]:
    """Per row the likeliest column of another image."""
    return [
        max((c for c, other in enumerate(column_ids) if other != own), key=lambda c: similarity[row, c].item())
        for row, own in enumerate(row_ids)
    ]


def match_one(model, image: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, label: int) -> torch.Tensor:
    kv = model.project_images(image[None])
    length = int(mask.sum())
    return functional.cross_entropy(model.match_logits(ids[None, :length], None, kv), torch.tensor([label]))


def by_hand(kind: str, step: int, stage) -> list[dict[str, torch.Tensor]]:
    """docs/facts.md 5 to 7 for each rank, pair by pair, everything of both ranks at hand."""
    model, temperature, alpha = stage.model, stage.model.temperature, CONFIG.alpha * 0.6
    if kind == "pretrain":
        alpha /= 2  # ramps over two epochs
    batches = [batch_of(rank, step) for rank in range(2)]
    tokens = [model.vision_model(batch.pixels) for batch in batches]
    images = [functional.normalize(model.vision_proj(part[:, 0]), dim=1) for part in tokens]
    texts = [model.text_features(batch.ids, batch.mask) for batch in batches]
    all_tokens, all_ids = torch.cat(tokens), [*IMAGE_IDS[0], *IMAGE_IDS[1]]
    rows = [(batch.ids[row], batch.mask[row]) for batch in batches for row in range(3)]
    results = []
    for rank, batch in enumerate(batches):
        slow = stage.teacher.encoders.features(batch.pixels, batch.ids, batch.mask)
        image_keys, text_keys = (
            torch.cat([own, queue]).double()
            for own, queue in zip(slow, (stage.teacher.queue.images, stage.teacher.queue.texts), strict=True)
        )
        own = IMAGE_IDS[rank]
        hard = torch.zeros(3, 3 + CONFIG.queue_size, dtype=torch.float64)
        for row in range(3):
            hard[row, row] = 1.0  # no image twice on a rank, and the queue holds noise
        scores = images[rank] @ text_keys.T / temperature, texts[rank] @ image_keys.T / temperature
        teachers = image_keys[:3] @ text_keys.T / temperature, text_keys[:3] @ image_keys.T / temperature
        itc = torch.zeros((), dtype=torch.float64)
        for score, teacher in zip(scores, teachers, strict=True):
            target = alpha * teacher.softmax(dim=1).detach() + (1 - alpha) * hard
            itc = itc - (target * score.log_softmax(dim=1)).sum() / 3 / 2
        if kind == "filter-all-ranks":
            columns, offset = all_ids, 0
            similar = images[rank] @ torch.cat(texts).T, texts[rank] @ torch.cat(images).T
        elif kind == "filter":
            columns, offset = own, 3 * rank
            similar = images[rank] @ texts[rank].T, texts[rank] @ images[rank].T
        else:
            columns, offset = own, 3 * rank
            similar = scores[0][:, :3], scores[1][:, :3]
        hard_texts, hard_images = (hardest(part.detach(), own, columns) for part in similar)
        itm = torch.zeros((), dtype=torch.float64)
        for row in range(3):
            text = (batch.ids[row], batch.mask[row])
            itm = itm + match_one(model, tokens[rank][row], *text, 1) / 9
            itm = itm + match_one(model, all_tokens[offset + hard_images[row]], *text, 0) / 9
            itm = itm + match_one(model, tokens[rank][row], *rows[offset + hard_texts[row]], 0) / 9
        result = {"loss_itc": itc, "loss_itm": itm}
        if kind == "pretrain":
            logits = model.logits(batch.ids, batch.mask, model.project_images(tokens[rank]))[:, :-1]
            targets = batch.ids.masked_fill(~batch.mask, -100)[:, 1:]
            result["loss_lm"] = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1)
        results.append(result)
    return results


@pytest.mark.parametrize("kind", ["filter", "filter-all-ranks", "pretrain"])
def test_two_processes(kind: str, tmp_path: Path) -> None:
    ranks = run_two(kind, tmp_path)
    stage = objective_of(kind)
    for step in range(2):
        expected = by_hand(kind, step, stage)
        sum(sum(parts.values()) for parts in expected).div(2).backward()
        for rank, parts in enumerate(expected):
            for name, value in parts.items():
                torch.testing.assert_close(ranks[rank][f"{name}.{step}"][0], value.detach(), **CLOSE)
    for name, parameter in stage.named_parameters():
        for rank in ranks:
            torch.testing.assert_close(rank[f"grad.{name}"], parameter.grad, **CLOSE)


def test_queues_are_the_same_on_all_ranks(tmp_path: Path) -> None:
    first, second = run_two("filter", tmp_path)
    for name in ("queue.images", "queue.texts", "queue.image_ids", "queue.pointer"):
        assert torch.equal(first[name], second[name]), name
    # two micro-batches of three on each of two ranks into five rows: the last five, in rank order
    assert first["queue.pointer"].item() == 12 % CONFIG.queue_size
    fed = [*IMAGE_IDS[0] * 2, *IMAGE_IDS[1] * 2]
    assert sorted(first["queue.image_ids"].tolist()) == sorted(fed[-5:])
