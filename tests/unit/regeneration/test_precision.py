"""What `precision: auto` is, is found out once per store."""

import json
from pathlib import Path

import pytest

from components.common.errors import DataError
from components.common.storage import open_store
from components.regeneration import engines
from components.regeneration.config import CapfiltConfig
from components.regeneration.precision import PRECISION_KEY, settled


def test_the_first_machine_decides_for_all_later_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    monkeypatch.setattr(engines, "fast_precision", lambda: "bf16")
    assert settled(CapfiltConfig(), store).precision == "bf16"
    monkeypatch.setattr(engines, "fast_precision", lambda: "fp32")
    assert settled(CapfiltConfig(seed=3, policy="replace"), store).precision == "bf16"
    assert json.loads(store.read(PRECISION_KEY)) == {"capfilt": "bf16"}


def test_a_setting_counts_as_it_stands_and_decides_nothing_for_others(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert settled(CapfiltConfig(precision="bf16"), store).precision == "bf16"
    assert not store.exists(PRECISION_KEY)
    store.write(PRECISION_KEY, b'{"capfilt": "bf16"}')
    assert settled(CapfiltConfig(precision="fp32"), store).precision == "fp32"


@pytest.mark.parametrize("written", [b'{"capfilt": "fp8"}', b"{}"])
def test_what_names_no_arithmetic_is_told(tmp_path: Path, written: bytes) -> None:
    store = open_store(str(tmp_path))
    store.write(PRECISION_KEY, written)
    with pytest.raises(DataError, match=r"precision\.json names no arithmetic"):
        settled(CapfiltConfig(), store)
