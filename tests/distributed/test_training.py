"""The real objectives, trained by the real launcher: two processes, ZeRO 2, bf16, a SIGKILL, and a model at the end."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from components.common.contracts import DatasetRef
from components.common.errors import CapfiltError, ConfigError
from components.common.programs import program
from components.common.storage import Store, open_store
from components.common.tracking import Tracker
from components.inference import probe
from components.model.checkpoints.weights import load_base, load_captioner, load_filter, load_teacher
from components.model.config import BlipConfig, TextConfig, VisionConfig
from components.training import launch
from components.training.config import TrainConfig
from components.training.finetune import run_finetuning
from components.training.gathering import LostMachineError
from components.training.group import SPEC_FILE, run_group
from components.training.joining import end_joined
from components.training.outcome import Outcome
from components.training.pretrain import run_pretraining
from tests.helpers.human_pairs import import_pairs, save_tokenizer
from tests.helpers.s3 import serve_s3

ROOT = Path(__file__).resolve().parents[2]
TINY = BlipConfig(
    vision=VisionConfig(image_size=32, patch_size=16, width=32, depth=2, heads=2),
    text=TextConfig(width=32, depth=2, heads=2, intermediate=64, max_positions=32, attention_dropout=0.1),
    embed_dim=16,
    queue_size=24,
)


@contextlib.contextmanager
def killed_in_step(step: int) -> Iterator[None]:
    """Every training process started meanwhile kills itself by SIGKILL in the middle of this step."""

    def start(_module: str, arguments: Sequence[str], *rest: Any, **options: Any) -> Outcome:
        return run_group("tests.helpers.dying_training", [*arguments, "--kill-at", str(step)], *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "run_group", start)
        with pytest.raises(CapfiltError, match="ended with code"):
            yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def human(tmp_path_factory: pytest.TempPathFactory, store: Store) -> DatasetRef:
    return import_pairs(tmp_path_factory.mktemp("human"), store)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def config(processes: int, **over: object) -> TrainConfig:
    base = {
        "steps": 10,
        "batch_size": 8 // processes,
        "precision": "bf16",
        "optim": {"lr": 1e-3, "warmup_steps": 2, "clip": 1.0},
        "deepspeed": {"zero_stage": 2},
        "checkpoint": {"every_steps": 4},
        "log_every": 1,
        "launch": {"processes": processes, "threads": 1},
    }
    return TrainConfig.model_validate(base | over)


def losses(work_dir: Path) -> list[dict[str, float]]:
    """The curve without what a clock measures."""
    lines = [json.loads(line) for line in (work_dir / "history.jsonl").read_text().splitlines()]
    clocked = ("train/samples_per_second", "train/seconds_per_step", "train/data_wait_share")
    return [{name: value for name, value in line.items() if name not in clocked} for line in lines]


def test_a_killed_pre_training_goes_on_bit_for_bit_and_its_model_is_finetuned(
    tmp_path: Path, store: Store, human: DatasetRef, tokenizer: str
) -> None:
    folder = tmp_path / "pretrain"
    with killed_in_step(8):
        run_pretraining([(human, 1)], TINY, config(2), tokenizer=tokenizer, store=store, work_dir=folder)
    before = losses(folder)
    assert [line["step"] for line in before] == list(range(1, 8))
    result = run_pretraining([(human, 1)], TINY, config(2), tokenizer=tokenizer, store=store, work_dir=folder)
    after = losses(folder)
    assert after[: len(before)] == before
    assert [line["step"] for line in after] == list(range(1, 11))
    assert {"train/loss_itc", "train/loss_itm", "train/loss_lm", "train/nll_lm"} <= set(after[-1])
    assert after[-1]["train/queue_fill"] == 1.0
    assert result.steps == 10
    assert "step-00000004" in going_on(folder), "steps 5 to 7 were done again"

    base = load_base(result.model.uri)
    teacher = load_teacher(result.model.uri)
    assert teacher is not None
    assert {value.dtype for name, value in teacher.items() if name.startswith("encoders.")} == {torch.float32}
    assert all(value.dtype == torch.float32 for value in base.model.state_dict().values())

    for role, load in (("captioner", load_captioner), ("filter", load_filter)):
        settings = config(1, steps=2, precision="fp32", deepspeed={"zero_stage": 0})
        tuned = run_finetuning(role, result.model, [(human, 1)], settings, store=store, work_dir=tmp_path / role)
        model = load(tuned.model.uri).model
        start, end = base.model.vision_model.patch.weight, model.vision_model.patch.weight
        assert 0 < (start - end).abs().max() < 0.01, "learned a little, from the base model on"


def going_on(folder: Path) -> str:
    """The line of the log that says which checkpoint was taken."""
    return next(line for line in (folder / "training.log").read_text().splitlines() if "going on from" in line)


@pytest.mark.slow
def test_accumulated_steps_with_dropout_and_augmentation_go_on_bit_for_bit(
    tmp_path: Path, store: Store, human: DatasetRef, tokenizer: str
) -> None:
    """One process, ZeRO 1, four micro-batches a step; every later loss depends on queue, teacher, dropout and views."""
    settings = config(1, batch_size=4, accumulation=4, steps=7, precision="fp32", deepspeed={"zero_stage": 1})
    settings = settings.model_copy(update={"checkpoint": settings.checkpoint.model_copy(update={"every_steps": 3})})
    assert settings.randaugment and settings.flip and settings.min_scale < 1
    assert TINY.text.dropout > 0 and TINY.text.attention_dropout > 0
    with killed_in_step(6):
        run_pretraining([(human, 1)], TINY, settings, tokenizer=tokenizer, store=store, work_dir=tmp_path)
    before = losses(tmp_path)
    run_pretraining([(human, 1)], TINY, settings, tokenizer=tokenizer, store=store, work_dir=tmp_path)
    assert len(before) == 5 and losses(tmp_path)[:5] == before
    assert "step-00000003" in going_on(tmp_path), "steps 4 and 5 were done again"


def test_auto_goes_on_as_it_began(
    tmp_path: Path, human: DatasetRef, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun where bf16 is faster, killed, gone on with where it is not: fp32 would have been another training."""
    store = open_store(str(tmp_path / "models"))
    settings = config(1, steps=4, precision="auto", checkpoint={"every_steps": 2}, deepspeed={"zero_stage": 0})
    arguments = {"tokenizer": tokenizer, "store": store, "work_dir": tmp_path / "work"}
    monkeypatch.setattr(probe, "_may_have_bf16", lambda: True)
    monkeypatch.setattr(probe, "probe", lambda: probe.Probe("cpu", 512, 2.0, 1.0))
    with killed_in_step(4):
        run_pretraining([(human, 1)], TINY, settings, **arguments)
    monkeypatch.setattr(probe, "probe", lambda: probe.Probe("cpu", 512, 1.0, 2.0))
    run_pretraining([(human, 1)], TINY, settings, **arguments)
    assert "step-00000002" in going_on(tmp_path / "work")
    spec = json.loads((tmp_path / "work" / SPEC_FILE).read_text())
    assert spec["config"]["precision"] == "bf16"


def test_settings_changed_under_a_checkpoint_are_refused(
    tmp_path: Path, store: Store, human: DatasetRef, tokenizer: str
) -> None:
    short = config(1, steps=4, precision="fp32")
    other = short.model_copy(update={"optim": short.optim.model_copy(update={"lr": 5e-3})})
    run_pretraining([(human, 1)], TINY, short, tokenizer=tokenizer, store=store, work_dir=tmp_path)
    with pytest.raises(ConfigError, match="belongs to a training with other data, model or settings"):
        run_pretraining([(human, 1)], TINY, other, tokenizer=tokenizer, store=store, work_dir=tmp_path)


@contextlib.contextmanager
def joined(uri: str, cache: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another machine: it shares nothing with this one but the store."""
    command = [sys.executable, "-m", "capfilt.cli.main", "join", uri]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as other:
        try:
            yield other
        finally:
            if other.poll() is None:
                other.terminate()
            other.wait(60)


@contextlib.contextmanager
def place_for_two(kind: str, folder: Path) -> Iterator[str]:
    """URI of a store that two machines reach."""
    if kind == "folder":
        yield str(folder / "shared")
        return
    with serve_s3(folder / "s3") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield f"{server.uri}/root"


class Interrupting(Tracker):
    """Ctrl-C in the third step."""

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        if step == 3:
            raise KeyboardInterrupt


TWO_MACHINES = {"processes": 1, "threads": 1, "nodes": 2, "master": "127.0.0.1:0", "timeout_minutes": 5}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_two_machines_train_one_model_after_the_other(
    kind: str, tmp_path: Path, human: DatasetRef, tokenizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A pre-training that is stopped and goes on, and a finetuning: the second machine runs one command for all."""
    settings = config(2, steps=40, precision="fp32", checkpoint={"every_steps": 0}, launch=TWO_MACHINES)
    caplog.set_level("INFO")
    with place_for_two(kind, tmp_path) as uri, joined(uri, tmp_path / "other") as other:
        store = open_store(uri)
        start = partial(run_pretraining, [(human, 1)], TINY, settings, tokenizer=tokenizer, work_dir=tmp_path / "own")

        with pytest.raises(KeyboardInterrupt):
            start(store=store, tracker=Interrupting())
        before = losses(tmp_path / "own")
        assert 3 <= len(before) < 40
        result = start(store=store)
        after = losses(tmp_path / "own")
        assert after[: len(before)] == before
        assert [line["train/epoch"] for line in after] == pytest.approx([8 * n / 24 for n in range(1, 41)])
        assert f"step-{len(before):08}" in going_on(tmp_path / "own")
        brief = settings.model_copy(update={"steps": 2})
        run_finetuning("captioner", result.model, [(human, 1)], brief, store=store, work_dir=tmp_path / "tuned")
        end_joined(uri)
        assert other.wait(60) == 0
        assert not [found.key for found in store.list("trainings/") if "/parts/" in found.key]
    assert f"run there: {program('capfilt')} join {uri}" in caplog.text


@pytest.mark.slow
def test_a_machine_that_is_lost_or_does_not_come_is_named(tmp_path: Path, human: DatasetRef, tokenizer: str) -> None:
    uri = str(tmp_path / "shared")
    store = open_store(uri)
    alone = TWO_MACHINES | {"timeout_minutes": 0.05}
    run = partial(run_pretraining, [(human, 1)], TINY, tokenizer=tokenizer, store=store)
    with pytest.raises(LostMachineError, match=r"machine 1 of 2 did not join .* join .*shared"):
        run(config(2, steps=2, launch=alone), work_dir=tmp_path / "alone")
    with joined(uri, tmp_path / "other") as other:

        def kill(line: str) -> None:
            if "ready " in line:
                other.kill()

        with pytest.raises(LostMachineError, match=r"machine 1 \(.*\) is lost: no sign of life"):
            run(config(2, steps=4000, launch=TWO_MACHINES), work_dir=tmp_path / "lost", on_line=kill)
