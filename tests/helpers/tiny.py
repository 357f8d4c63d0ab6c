"""The sample bootstrap made so small that only its seams are tested, not its quality."""

SETTINGS: dict[str, object] = {
    "data.sampleworld.human_train": 24,
    "data.sampleworld.human_val": 8,
    "data.sampleworld.human_test": 12,
    "data.sampleworld.web": 40,
    "data.sampleworld.shard_size": 20,
    "data.sampleworld.image_size": 32,
    "model.vision.image_size": 32,
    "model.vision.patch_size": 16,
    "model.vision.heads": 2,
    "model.text.heads": 2,
    "model.vision.width": 32,
    "model.vision.depth": 1,
    "model.text.width": 32,
    "model.text.depth": 1,
    "model.text.intermediate": 64,
    "model.embed_dim": 16,
    "model.queue_size": 64,
    "encoders.vision": "null",
    **{f"{role}.optim.freeze": "[]" for role in ("pretrain", "captioner", "filter")},
    "pretrain.steps": 4,
    "captioner.steps": 3,
    "filter.steps": 3,
    **{
        f"{role}.{key}": value
        for role in ("pretrain", "captioner", "filter")
        for key, value in (("batch_size", 8), ("optim.warmup_steps", 1), ("log_every", 1), ("launch.threads", 1))
    },
    "evaluation.retrieval.top_k": 10,
    "capfilt.guard.max_top_caption_share": 1,
    "capfilt.calibrated": "null",
    "capfilt.threshold": 0.2,
    "capfilt.captions_per_image": 1,
    "capfilt.policy": "keep_both",
}


def overrides(**more: object) -> list[str]:
    """`--set` values of the tiny bootstrap; `more` with `__` for dots: `pretrain__steps=30`."""
    changed = SETTINGS | {name.replace("__", "."): value for name, value in more.items()}
    return [f"{name}={value}" for name, value in changed.items()]


def options(**more: object) -> list[str]:
    """The same as command-line options."""
    return [part for value in overrides(**more) for part in ("--set", value)]
