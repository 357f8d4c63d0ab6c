"""A pre-training whose temperature is pushed below its range and back, under each ZeRO stage.

Run by the launcher: `--work-dir FOLDER`. The outcome holds, per stage, the temperature that every step used, the sum of
all weights at the end and how far each part of the model moved; and the same of a plain loop over torch's AdamW, which
clamps as BLIP's own code does. `…-grouped`: the same once more with a frozen part and a slower one.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.model.groups import freeze, places
from components.model.learning import ModelBatch
from components.training.config import TrainConfig
from components.training.engine import Engine, build_optimizer, end_process_group, start_process_group
from components.training.outcome import write_failure, write_outcome
from components.training.processes import leave_mark
from components.training.stopping import leave_with_parents
from tests.helpers.contrast_ranks import batch_of, objective_of

DOWN, UP = 6, 3
LR = 0.05


class Pushed(nn.Module):
    """The real objective, and a force on its temperature that outweighs every other."""

    def __init__(self) -> None:
        super().__init__()
        self.objective = objective_of("pretrain").float()
        self.force = 1e9

    def forward(self, batch: ModelBatch) -> dict[str, Tensor]:
        losses = self.objective(batch)
        return losses | {"loss": losses["loss"] + self.force * self.objective.model.temperature.sum()}


def train_plainly(config: TrainConfig) -> dict[str, Any]:
    """The reference's way: no engine, and the clamp at the start of every forward pass."""
    module = prepared(config)
    optimizer = build_optimizer(module, config.optim)
    seen = []
    for step in range(DOWN + UP):
        torch.manual_seed(step)
        module.force = 1e9 if step < DOWN else -1e9
        losses = module(batch())
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        module.objective.after_step()
        seen.append(losses["temperature"].item())
    return {"temperatures": seen, "weights": total(module), "moved": moved(module)}


def train_in_engine(config: TrainConfig) -> dict[str, Any]:
    module = prepared(config)
    engine = Engine(module, config, bounds=module.objective.bounds())
    seen = []
    for step in range(DOWN + UP):
        torch.manual_seed(step)
        module.force = 1e9 if step < DOWN else -1e9
        losses = engine.forward_backward(batch())
        engine.update(config.optim.lr)
        module.objective.after_step()
        seen.append(losses["temperature"].item())
    exported = engine.state_dict()["objective.model.temperature"].item()
    engine.close()
    return {"temperatures": seen, "weights": total(module), "moved": moved(module), "exported": exported}


def prepared(config: TrainConfig) -> Pushed:
    module = Pushed().train()
    freeze(module, config.optim.freeze)
    return module


def moved(module: Pushed) -> dict[str, float]:
    """How far the parameter that moved most has gone, by part."""
    start, most = dict(Pushed().named_parameters()), dict[str, float]()
    for name, place in places(module).items():
        distance = (module.get_parameter(name) - start[name]).abs().max().item()
        most[place.part] = max(most.get(place.part, 0.0), distance)
    return most


def batch() -> ModelBatch:
    """The same in all processes, so that one process alone does what two do."""
    one = batch_of(0)
    return ModelBatch(one.pixels.float(), one.ids, one.mask, one.image_ids, one.progress)


def total(module: nn.Module) -> float:
    """All weights but the temperature in one number."""
    return sum(
        parameter.double().sum().item() for name, parameter in module.named_parameters() if "temperature" not in name
    )


def grouped(config: TrainConfig) -> TrainConfig:
    optim = {"freeze": ("text",), "lr_vision": 0.1, "layer_decay": 0.5}
    return config.model_copy(update={"optim": config.optim.model_copy(update=optim)})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work-dir", type=Path, required=True)
    work_dir: Path = parser.parse_args().work_dir
    leave_with_parents()
    leave_mark(work_dir)
    try:
        optim = {"lr": LR, "betas": [0.0, 0.999], "weight_decay": 0.0}
        settings = [
            TrainConfig.model_validate(
                {"steps": DOWN + UP, "batch_size": 3, "optim": optim, "deepspeed": {"zero_stage": stage}}
            )
            for stage in range(3)
        ]
        start_process_group(settings[0])
        result: dict[str, Any] = {"plain": train_plainly(settings[0])}
        result["plain-grouped"] = train_plainly(grouped(settings[0]))
        for stage, config in enumerate(settings):
            result[f"{stage}"], result[f"{stage}-grouped"] = train_in_engine(config), train_in_engine(grouped(config))
        if torch.distributed.get_rank() == 0:
            write_outcome(work_dir, result)
        torch.distributed.barrier()
        end_process_group()
    except Exception as error:
        write_failure(work_dir, error)
        raise


if __name__ == "__main__":
    main()
