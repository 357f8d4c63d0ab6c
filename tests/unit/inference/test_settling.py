"""What `precision: auto` is, is found out once per store and kind of work."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import DataError
from components.common.storage import open_store
from components.evaluation.config import EvaluationConfig
from components.inference import probe
from components.inference.settling import PRECISION_KEYS, Work, settled
from components.regeneration import engines
from components.regeneration.config import CapfiltConfig
from components.regeneration.precision import settled_in_store
from components.training.config import TrainConfig

CONFIGS: dict[Work, Any] = {
    "capfilt": CapfiltConfig(precision="auto"),
    "training": TrainConfig(steps=1, precision="auto"),
    "evaluation": EvaluationConfig(precision="auto"),
}


def machine(monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float) -> None:
    """Go on as on a machine of these speeds."""
    monkeypatch.setattr(probe, "_may_have_bf16", lambda: True)
    monkeypatch.setattr(probe, "probe", lambda: probe.Probe("cpu", 512, fp32, bf16))


@pytest.mark.parametrize("work", CONFIGS)
def test_the_first_machine_decides_for_all_later_runs(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    machine(monkeypatch, 2.0, 1.0)
    assert settled(CONFIGS[work], store, work).precision == "bf16"
    machine(monkeypatch, 1.0, 5.0)
    assert settled(CONFIGS[work].model_copy(update={"seed": 3}), store, work).precision == "bf16"
    assert json.loads(store.read(PRECISION_KEYS[work])) == {work: "bf16"}
    others = {name for name in PRECISION_KEYS if store.exists(PRECISION_KEYS[name])}
    assert others == {work}, "one kind of work says nothing of another"


def test_capfilt_asks_its_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "fast_precision", lambda: "bf16")
    assert settled_in_store(CapfiltConfig(), open_store(str(tmp_path))).precision == "bf16"


@pytest.mark.parametrize("work", CONFIGS)
def test_a_setting_counts_as_it_stands_and_decides_nothing_for_others(work: Work, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    asked = CONFIGS[work].model_copy(update={"precision": "bf16"})
    assert settled(asked, store, work) == asked
    assert not list(store.list())
    store.write(PRECISION_KEYS[work], json.dumps({work: "bf16"}).encode())
    plain = CONFIGS[work].model_copy(update={"precision": "fp32"})
    assert settled(plain, store, work).precision == "fp32"


@pytest.mark.parametrize("written", [b'{"capfilt": "fp8"}', b'{"capfilt": "fp16"}', b"{}"])
def test_what_names_no_arithmetic_is_told(tmp_path: Path, written: bytes) -> None:
    store = open_store(str(tmp_path))
    store.write(PRECISION_KEYS["capfilt"], written)
    with pytest.raises(DataError, match=r"precision\.json names no arithmetic"):
        settled(CapfiltConfig(), store, "capfilt")
