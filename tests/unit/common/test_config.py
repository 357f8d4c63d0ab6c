"""The configs that ship, and what a seed varies."""

import shutil
from pathlib import Path

import pytest

from components.common.errors import ConfigError
from components.common.seeding import digest_of
from components.config import CONFIGS, BootstrapConfig, load_config
from components.data.config import LoaderConfig
from components.model.config import AnsweringConfig
from components.training.config import TrainConfig

PATHS = [
    "data.human.train=t.json",
    "data.human.val=v.json",
    "data.human.images=i",
    "data.web=w",
    "encoders.vision=/vit",
]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_load(path: Path) -> None:
    config = load_config(path, PATHS if path.stem.startswith("flickr8k") else ())
    assert config.name == path.stem


@pytest.mark.parametrize("part", ["vision", "text"])
def test_random_weights_are_not_frozen(part: str) -> None:
    given = "encoders.vision=/vit" if part == "text" else "encoders.vision=null"
    with pytest.raises(ConfigError, match=f"freeze` holds {part}, which starts from random weights"):
        load_config(None, [given, f"pretrain.optim.freeze=[{part}]"])
    load_config(None, [f"encoders.{part}=/given", f"pretrain.optim.freeze=[{part}]"])
    load_config(None, [given, "pretrain.optim.freeze=[]", f"captioner.optim.freeze=[{part}]"])


@pytest.mark.parametrize(
    ("name", "batch", "lr", "width", "depth"),
    [("blip-base-14m", 2880, 3e-4, 768, 12), ("blip-large-129m", 2400, 2e-4, 1024, 24)],
)
def test_the_papers_recipes(name: str, batch: int, lr: float, width: int, depth: int) -> None:
    """docs/facts.md 8."""
    config = load_config(CONFIGS / f"{name}.yaml")
    launch = config.pretrain.launch
    assert (launch.processes or 0) * launch.nodes * config.pretrain.batch_size == batch
    assert (config.pretrain.optim.lr, config.pretrain.epochs) == (lr, 20)
    assert (config.model.vision.width, config.model.vision.depth) == (width, depth)
    assert (config.model.queue_size, config.model.momentum, config.model.alpha) == (57600, 0.995, 0.4)
    assert (config.captioner.epochs, config.filter.epochs, config.captioner.image_size) == (5, 6, 384)
    assert (config.capfilt.threshold, config.capfilt.decoding.top_p, config.capfilt.decoding.top_k) == (0.5, 0.9, 0)


def test_truth_is_no_setting() -> None:
    """Nothing that a config names can bring the kinds of web texts to what learns."""
    with pytest.raises(ConfigError, match=r"unknown key `data\.truth`"):
        load_config(None, ["data.truth=x"])


def test_the_seed_varies_everything() -> None:
    zero, three = load_config(None), load_config(None, ["seed=3"])
    assert zero.world().seed != three.world().seed
    assert zero.captioning().seed != three.captioning().seed
    for role in ("pretrain", "captioner", "filter"):
        assert zero.training(role).seed != three.training(role).seed  # type: ignore[arg-type]
    assert zero.bootstrap_id != three.bootstrap_id


def test_inner_seeds_still_count() -> None:
    assert load_config(None, ["pretrain.seed=1"]).training("pretrain").seed != load_config().training("pretrain").seed


def test_tracking_is_no_part_of_what_a_bootstrap_is() -> None:
    assert load_config(None, ["tracking.enabled=false"]).bootstrap_id == load_config().bootstrap_id


@pytest.mark.parametrize("name", ["sample", "flickr8k"])
def test_a_copied_config_finds_what_comes_with_the_original(name: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    shutil.copy(CONFIGS / f"{name}.yaml", mine)
    given = PATHS if name == "flickr8k" else []
    copied, original = load_config(mine, given), load_config(CONFIGS / f"{name}.yaml", given)
    assert (copied.encoders, copied.tokenizer) == (original.encoders, original.tokenizer)
    assert copied.bootstrap_id == original.bootstrap_id
    if name == "sample":
        shutil.copytree(CONFIGS / "sample-vit", tmp_path / "sample-vit")  # what lies beside the copy comes first
        assert load_config(mine).encoders.vision == str(tmp_path / "sample-vit")


def test_encoders_that_were_moved_make_no_other_bootstrap(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in ("old", "new", "other"))
    shutil.copytree(CONFIGS / "sample-vit", old)
    shutil.copytree(old, new)
    shutil.copytree(old, other)
    (other / "config.json").write_text((old / "config.json").read_text() + " ")
    here, there, elsewhere = (load_config(None, [f"encoders.vision={folder}"]) for folder in (old, new, other))
    assert here.bootstrap_id == there.bootstrap_id != elsewhere.bootstrap_id
    assert here.former_bootstrap_id != there.former_bootstrap_id
    unasked = here.model_copy(update={"vqa": None, "answering": AnsweringConfig()})
    assert here.former_bootstrap_id == digest_of(unasked)  # by which earlier releases filed it
    random = load_config(None, ["encoders.vision=null", "pretrain.optim.freeze=[]"])
    remote = load_config(None, ["encoders.vision=s3://bucket/vit"])
    for one in (random, remote):
        assert one.bootstrap_id == one.former_bootstrap_id


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.max_tokens=65", r"`pretrain.max_tokens` is 65, above model.text.max_positions, 64"),
        ("captioner.max_tokens=65", "`captioner.max_tokens`"),
        ("capfilt.max_tokens=65", "`capfilt.max_tokens`"),
        ("capfilt.decoding.max_length=65", "`capfilt.decoding.max_length`"),
        ("evaluation.decoding.max_length=65", "`evaluation.decoding.max_length`"),
        ("evaluation.retrieval.max_tokens=65", "`evaluation.retrieval.max_tokens`"),
        ("filter.image_size=100", r"`filter.image_size` is 100: it must be a multiple of model.vision.patch_size, 12"),
        ("capfilt.image_size=100", "`capfilt.image_size`"),
        ("evaluation.gate.metrics=[eval/captions/cider]", "did you mean 'eval/caption/cider'"),
        ("evaluation.gate.metrics=[]", "at least 1"),
        ("evaluation.gate.floors={mean_recal: 0.3}", "no metric is called 'mean_recal'"),
        ("filter.batch_size=1", r"`filter.batch_size` is 1: wrong pairs are made of the others .* use 2 at least"),
        ("pretrain.batch_size=1", "`pretrain.batch_size` is 1"),
        ("pretrain.optim.min_lr=1", r"min_lr \(1\) is above lr"),
        ("pretrain.optim.betas=[0.9, 1]", "less than 1"),
    ],
)
def test_settings_that_contradict_one_another(override: str, message: str) -> None:
    """They would end a bootstrap hours later, or quietly do something else than was meant."""
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override])


def test_a_pair_alone_has_no_wrong_one() -> None:
    """A captioner needs none; several processes that share theirs have some, and several machines."""
    load_config(None, ["captioner.batch_size=1"])
    alone = ["filter.batch_size=1", "filter.all_rank_negatives=true"]
    load_config(None, [*alone, "filter.launch.processes=2"])
    load_config(None, [*alone, "filter.launch.processes=1", "filter.launch.nodes=2"])
    with pytest.raises(ConfigError, match=r"`filter.batch_size` is 1"):
        load_config(None, [*alone, "filter.launch.processes=1"])
    assert load_config(None, alone).filter.lack_of_negatives("filter", 1) is not None


def test_vocabulary_beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(CONFIGS / "flickr8k.yaml", PATHS)
    assert config.tokenizer.vocab_file == str(CONFIGS / "bert-base-uncased-vocab.txt")
    with pytest.raises(ConfigError, match=r"no file no\.txt"):
        load_config(None, ["tokenizer.vocab_file=no.txt"])


def test_the_vocabulary_may_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "v.txt").write_text("[PAD]\n")
    assert load_config(None, ["tokenizer.vocab_file=~/v.txt"]).tokenizer.vocab_file == str(tmp_path / "v.txt")


def test_a_store_whose_sqlite_files_could_not_be_named_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`store`: /x/a\?b holds a `\?`"):
        load_config(None, ["store=/x/a?b"])


def test_where_mlflow_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert load_config().tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert load_config(None, ["tracking.enabled=false"]).tracking_uri(tmp_path) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert load_config().tracking_uri(tmp_path) == "http://127.0.0.1:5000"
    assert load_config(None, ["tracking.uri=http://other"]).tracking_uri(tmp_path) == "http://other"


def test_the_loader_is_set_where_a_training_is() -> None:
    """Caches, shuffling, reading ahead and limits by their own keys; no key is declared twice."""
    keys = ("prefetch=5", "shuffle_shards=3", "cache_decoded_mb=64", "cache_dir=/c", "cache_gb=2", "max_pixels=9000")
    config = load_config(None, [f"pretrain.{key}" for key in (*keys, "augment=false", "loader_threads=2")])
    loader = config.pretrain
    assert isinstance(loader, LoaderConfig)
    assert (loader.prefetch, loader.shuffle_shards, loader.cache_decoded_mb, loader.cache_dir) == (5, 3, 64, "/c")
    assert (loader.cache_gb, loader.max_pixels, loader.augment, loader.loader_threads) == (2.0, 9000, False, 2)
    assert not set(LoaderConfig.model_fields) & set(TrainConfig.__annotations__)


ASKED = "tasks=[captioning, retrieval, vqa]"


def test_questions_are_asked_by_one_setting_and_change_nothing_else() -> None:
    config = load_config(None, [ASKED])
    assert config.asks and not load_config().asks
    assert config.training("vqa").steps == config.vqa.steps  # type: ignore[union-attr]
    for role in ("pretrain", "captioner", "filter"):
        assert config.training(role) == load_config().training(role)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no vqa"):
        load_config().training("vqa")


def test_answers_may_decide_where_they_are_asked_for() -> None:
    gate = load_config(None, [ASKED, "evaluation.gate.metrics=[eval/vqa/accuracy_official]"]).evaluation.gate
    assert gate.metrics == ("eval/vqa/accuracy_official",)


def test_retrieval_alone_is_trained_as_the_filter_but_for_what_is_set() -> None:
    assert "retrieval" not in load_config().trainings()
    with pytest.raises(ConfigError, match="has no retrieval"):
        load_config().training("retrieval")
    config = load_config(None, ["retrieval.steps=99", "retrieval.optim.lr=1e-4"])
    filter = config.training("filter")
    optim = filter.optim.model_copy(update={"lr": 1e-4})
    assert config.training("retrieval") == filter.model_copy(update={"steps": 99, "optim": optim})
    assert load_config(None, ["retrieval={}"]).training("retrieval") == filter
    epochs = load_config(None, ["retrieval.epochs=2"]).training("retrieval")
    assert (epochs.steps, epochs.epochs, epochs.negative_temperature) == (None, 2, filter.negative_temperature)
    assert BootstrapConfig.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match="`retrieval.batch_size` is 1"):
        load_config(None, ["retrieval.batch_size=1"])


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["tasks=[vqa]"], "`tasks` lacks captioning and retrieval"),
        ([ASKED, "vqa=null"], "`vqa`, its finetuning, is not set"),
        ([ASKED, "model.text.width=64"], "for vqa they must be equal"),
        ([ASKED, "data.source=files", *PATHS], "these are not set: data.questions.train, data.questions.test"),
        ([ASKED, "vqa.image_size=70"], "`vqa.image_size` is 70"),
        (["evaluation.gate.floors={eval/vqa/accuracy_official: 0.5}"], "only the task vqa measures"),
        (["evaluation.gate.metrics=[eval/vqa/accuracy_official]"], "only the task vqa measures"),
    ],
)
def test_what_the_task_needs_is_said_at_once(overrides: list[str], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        load_config(None, overrides)
