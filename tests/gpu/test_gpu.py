"""On an NVIDIA GPU: losses and captions are those of the CPU, and a training says how well it uses the device."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from components.common.storage import open_store
from components.model.blip import BlipCaptioner, BlipPretrain
from components.model.config import BlipConfig, DecodingConfig, TextConfig, VisionConfig
from components.model.decoding import generate
from components.model.learning import ModelBatch, PretrainObjective
from components.training.config import TrainConfig
from components.training.flops import peak_flops
from components.training.pretrain import run_pretraining
from tests.helpers.human_pairs import import_pairs, save_tokenizer

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda")
CONFIG = BlipConfig(
    vision=VisionConfig(image_size=64, patch_size=16, width=128, depth=4, heads=2),
    text=TextConfig(
        vocab_size=120, width=128, depth=4, heads=2, intermediate=256, max_positions=32, dropout=0.0,
        attention_dropout=0.0, cls_id=2, sep_id=3, dec_id=118, enc_id=119,
    ),
    embed_dim=32,
    queue_size=48,
)  # fmt: skip


@pytest.fixture(autouse=True)
def true_fp32() -> Iterator[None]:
    """Without TF32, which rounds the inputs of matrix products to 10 bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def scattered(model: torch.nn.Module, factor: float = 4.0) -> torch.nn.Module:
    """Weights so wide that outputs differ from token to token."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "norm" not in name:
                parameter.mul_(factor)
    return model.eval()


def batch() -> ModelBatch:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(12) < torch.tensor([12, 7, 9, 12, 5, 8, 12, 10])[:, None]
    ids = torch.randint(5, 118, mask.shape, generator=generator).masked_fill(~mask, 0)
    ids[:, 0] = 2
    return ModelBatch(torch.randn(8, 3, 64, 64, generator=generator), ids, mask, torch.arange(8), progress=0.5)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_losses_and_logits_are_those_of_the_cpu(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    model = scattered(BlipPretrain(CONFIG), 2.0)
    one, there = batch(), batch().to(DEVICE)
    stage = PretrainObjective(model).eval()
    other = PretrainObjective(copy.deepcopy(model).to(DEVICE)).eval()
    expected = stage(one)
    with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
        losses = other(there)
        kv = other.model.encode_images(there.pixels)
        logits = other.model.logits(there.ids, there.mask, kv)
        match = other.model.match_logits(there.ids, there.mask, kv)
    for name in ("loss_itc", "loss_lm", "nll_lm"):  # ITM's negatives are drawn, on each device by its own generator
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=tolerance), name
    assert torch.isfinite(losses["loss_itm"])
    own = model.encode_images(one.pixels)
    spread = model.logits(one.ids, one.mask, own)[one.mask]
    worst = (logits.cpu().float()[one.mask] - spread).abs().max() / spread.std()
    assert worst < tolerance * 4
    difference = match.cpu().float() - model.match_logits(one.ids, one.mask, own)
    assert difference.abs().max() < tolerance * 4


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_captions_are_those_of_the_cpu(method: str) -> None:
    torch.manual_seed(1)
    model = scattered(BlipCaptioner(CONFIG))
    assert isinstance(model, BlipCaptioner)
    pixels = torch.randn(6, 3, 64, 64)
    config = DecodingConfig(method=method, min_length=0, max_length=16)
    prompt = [CONFIG.text.dec_id, 5, 6]
    with torch.inference_mode():
        expected = generate(model, model.encode_images(pixels), prompt, config)
        there = copy.deepcopy(model).to(DEVICE)
        written = generate(there, there.encode_images(pixels.to(DEVICE)), prompt, config)
    assert written == expected
    assert len({tuple(row) for row in written}) > 1


@pytest.mark.parametrize("compiled", [False, True])
def test_a_training_tells_how_well_it_uses_the_gpu(tmp_path: Path, compiled: bool) -> None:
    store = open_store(str(tmp_path / "store"))
    (tmp_path / "human").mkdir()
    human = import_pairs(tmp_path / "human", store)
    config = TrainConfig.model_validate(
        {
            "steps": 20,
            "batch_size": 8,
            "precision": "bf16",
            "compile": compiled,
            "optim": {"lr": 1e-3, "warmup_steps": 2, "clip": 1.0},
            "log_every": 5,
            "launch": {"processes": 1},
        }
    )
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    work_dir = tmp_path / "work"
    result = run_pretraining([(human, 1)], CONFIG, config, tokenizer=tokenizer, store=store, work_dir=work_dir)
    lines = [json.loads(line) for line in (work_dir / "history.jsonl").read_text().splitlines()]
    assert result.steps == 20
    assert lines[-1]["train/loss"] < lines[0]["train/loss"]
    assert all(line["train/gpu_peak_gib"] > 0 for line in lines)
    if peak_flops("bf16") is not None:
        assert all(0 < line["train/model_flops_utilisation"] < 1 for line in lines)
