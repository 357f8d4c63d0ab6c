"""The learning rate as a pure function of the step: nothing to save, nothing to get out of step on resume."""

import math

from components.training.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, *, total_steps: int, steps_per_epoch: float) -> float:
    """Learning rate of optimizer step `step` (0-based).

    Linear warm-up from `warmup_lr`, across epochs (the reference stops it after the first: docs/facts.md 13), then the
    schedule. The exponential schedule counts epochs from the start, as the reference does; the cosine runs from the
    end of the warm-up to `min_lr` at the last step.
    """
    epoch = math.floor(step / steps_per_epoch)
    warm = step < config.warmup_steps and not (config.warmup_first_epoch_only and epoch > 0)
    if warm:
        share = step / max(1, config.warmup_steps)
        return config.warmup_lr + (config.lr - config.warmup_lr) * share
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "exponential":
        return max(config.min_lr, config.lr * config.decay_rate**epoch)
    if config.cosine_per_epoch:
        epochs = max(1.0, total_steps / steps_per_epoch)
        share = min(1.0, epoch / epochs)
    else:
        share = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1.0 + math.cos(math.pi * share))
