"""How a bootstrap is told of in MLflow."""

import shutil
from pathlib import Path

from components.config import CONFIGS, load_config
from flows.layout import parent_run, settings


def test_a_moved_checkout_changes_no_setting_and_finds_its_run(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "vit", tmp_path / "new" / "vit"
    for folder in (old, new):
        shutil.copytree(CONFIGS / "sample-vit", folder)
    here, there = (load_config(None, [f"encoders.vision={folder}"]) for folder in (old, new))
    assert settings(here) == settings(there)
    assert settings(here).chosen["encoders.vision"].startswith("vit@")
    runs = [parent_run(config) for config in (here, there)]
    assert runs[0]["resume"] == runs[1]["resume"]
    assert runs[0]["formerly"]["bootstrap.id"] == here.former_bootstrap_id[:32]
    assert "formerly" not in parent_run(load_config(None, ["encoders.vision=null", "pretrain.optim.freeze=[]"]))


def test_settings_that_are_not_set_say_so() -> None:
    config = load_config(None, ["data.web_limit=null", "seed=7"])
    assert settings(config).deciding["data.web_limit"] == "null"
    assert (settings(config).deciding["seed"], settings(config).chosen["seed"]) == ("7", "7")
    assert "name" not in settings(config).deciding
