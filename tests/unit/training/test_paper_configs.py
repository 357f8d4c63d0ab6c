"""The paper's two recipes, value by value: BLIP's paper and released configs (docs/facts.md 1 to 8)."""

import pytest

from components.config import CONFIGS, BootstrapConfig, load_config
from components.training.schedule import learning_rate


def load(name: str) -> BootstrapConfig:
    return load_config(CONFIGS / f"{name}.yaml")


BASE, LARGE = load("blip-base-14m"), load("blip-large-129m")
BOTH = pytest.mark.parametrize("config", [BASE, LARGE], ids=["base", "large"])


@BOTH
def test_network_and_losses(config: BootstrapConfig) -> None:
    vision, text, model = config.model.vision, config.model.text, config.model
    assert (vision.image_size, vision.patch_size, vision.mlp_ratio, vision.layer_norm_eps) == (224, 16, 4, 1e-6)
    assert (text.width, text.depth, text.heads, text.intermediate, text.max_positions) == (768, 12, 12, 3072, 512)
    assert (text.dropout, text.attention_dropout, text.layer_norm_eps, text.initializer_range) == (
        0.1,
        0.1,
        1e-12,
        0.02,
    )
    assert (text.vocab_size, text.pad_id, text.cls_id, text.sep_id) == (30524, 0, 101, 102)
    assert (text.dec_id, text.enc_id) == (30522, 30523)
    assert (model.embed_dim, model.queue_size, model.momentum) == (256, 57600, 0.995)
    assert (model.alpha, model.temperature, model.label_smoothing) == (0.4, 0.07, 0.1)


def test_vision_transformers() -> None:
    sizes = [(c.width, c.depth, c.heads, c.drop_path) for c in (BASE.model.vision, LARGE.model.vision)]
    assert sizes == [(768, 12, 12, 0.0), (1024, 24, 16, 0.1)]


@BOTH
def test_starts_from_an_imagenet_vit_and_bert(config: BootstrapConfig) -> None:
    assert (config.init, config.encoders.text) == ("scratch", "s3://blip/raw/bert-base-uncased")
    assert config.encoders.as_released
    assert config.encoders.vision == {
        12: "s3://blip/raw/deit-base-patch16-224",
        24: "s3://blip/raw/vit-large-patch16-224-in21k",
    }.get(config.model.vision.depth)


@BOTH
def test_pre_training(config: BootstrapConfig) -> None:
    train = config.pretrain
    optim = train.optim
    assert train.epochs == 20
    assert (optim.schedule, optim.decay_rate, optim.min_lr) == ("exponential", 0.9, 1e-6)
    assert (optim.warmup_steps, optim.warmup_lr, optim.weight_decay, optim.clip) == (3000, 1e-6, 0.05, 0.0)
    assert (optim.betas, optim.eps) == ((0.9, 0.999), 1e-8)
    assert (train.image_size, train.min_scale, train.flip) == (None, 0.2, True)
    assert (train.randaugment, train.randaugment_operations, train.randaugment_magnitude) == (True, 2, 5)
    assert (train.max_words, train.max_tokens, train.accumulation) == (30, 30, 1)
    assert (train.alpha_ramp_epochs, train.all_rank_negatives) == (None, False)


def test_batches_and_rates() -> None:
    launches = [(c.pretrain.launch.nodes, c.pretrain.launch.processes) for c in (BASE, LARGE)]
    assert launches == [(2, 16)] * 2
    assert [c.pretrain.batch_size * 32 for c in (BASE, LARGE)] == [2880, 2400]
    assert [c.pretrain.optim.lr for c in (BASE, LARGE)] == [3e-4, 2e-4]
    assert [c.captioner.optim.lr for c in (BASE, LARGE)] == [1e-5, 2e-6]
    assert [c.filter.optim.lr for c in (BASE, LARGE)] == [1e-5, 5e-6]
    assert [c.captioner.batch_size for c in (BASE, LARGE)] == [c.filter.batch_size for c in (BASE, LARGE)] == [32, 16]
    assert [c.captioner.checkpointed_layers for c in (BASE, LARGE)] == [None, 5]
    assert [c.filter.checkpointed_layers for c in (BASE, LARGE)] == [4, 12]


@BOTH
def test_finetuning(config: BootstrapConfig) -> None:
    for train, epochs, tokens in ((config.captioner, 5, 40), (config.filter, 6, 35)):
        optim = train.optim
        assert (train.epochs, train.max_tokens, train.max_words) == (epochs, tokens, 30)
        assert (train.image_size, train.min_scale, train.launch.processes) == (384, 0.5, 8)
        assert (optim.schedule, optim.cosine_per_epoch, optim.min_lr) == ("cosine", True, 0.0)
        assert (optim.warmup_steps, optim.weight_decay, optim.clip) == (0, 0.05, 0.0)
        assert (train.randaugment_operations, train.randaugment_magnitude, train.flip) == (2, 5, True)
    assert config.captioner.prompt == "a picture of "
    assert config.filter.all_rank_negatives and config.filter.joint_positives


@BOTH
def test_capfilt_and_evaluation(config: BootstrapConfig) -> None:
    capfilt, evaluation = config.capfilt, config.evaluation
    assert (capfilt.decoding.method, capfilt.decoding.top_p, capfilt.captions_per_image) == ("nucleus", 0.9, 1)
    assert (capfilt.threshold, capfilt.policy, capfilt.position_zero) == (0.5, "keep_both", "enc")
    decoding = evaluation.decoding
    assert (decoding.method, decoding.beams, decoding.min_length, decoding.max_length) == ("beam", 3, 5, 20)
    assert (decoding.repetition_penalty, decoding.prompt) == (1.0, "a picture of ")
    assert (evaluation.retrieval.top_k, evaluation.retrieval.max_tokens) == (256, 35)
    assert (config.rounds, config.init) == (1, "scratch")


@BOTH
def test_defects_of_the_reference_are_mended_and_one_switch_brings_them_back(config: BootstrapConfig) -> None:
    for role in ("pretrain", "captioner", "filter"):
        mended = config.training(role)
        assert not mended.reference_quirks
        assert not mended.optim.decay_everything and not mended.optim.warmup_first_epoch_only
        assert not mended.teacher_dropout and not mended.randaugment_as_released
        assert mended.joint_positives and not mended.same_image_negatives
        quirky = mended.model_copy(update={"reference_quirks": True}).with_quirks(role)
        assert quirky.optim.decay_everything and quirky.optim.warmup_first_epoch_only
        assert quirky.teacher_dropout and quirky.randaugment_as_released
        assert quirky.same_image_negatives is (role == "pretrain")


def test_warm_up_that_the_reference_cuts_off() -> None:
    """COCO + VG at a batch of 600: 2,227 steps an epoch, the rate is 2.2e-4, and jumps to 2.7e-4 (docs/facts.md 13)."""
    mended = BASE.training("pretrain")
    quirky = mended.model_copy(update={"reference_quirks": True}).with_quirks("pretrain")

    def rates(config: object) -> list[float]:
        return [learning_rate(config, step, total_steps=44540, steps_per_epoch=2227) for step in (2226, 2227, 2999)]

    assert rates(quirky.optim) == pytest.approx([2.23e-4, 2.7e-4, 2.7e-4], rel=2e-3)
    assert rates(mended.optim) == pytest.approx([2.23e-4, 2.23e-4, 3.0e-4], rel=2e-3)
