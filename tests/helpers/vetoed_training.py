"""Steps of a loss, and of a gradient, that is not finite in one of two processes, under each ZeRO stage.

Run by the launcher: `--work-dir FOLDER`. The outcome holds, per stage and fault, what became of weights and moments.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.common import distributed
from components.training.config import TrainConfig
from components.training.engine import Engine, end_process_group, start_process_group
from components.training.outcome import write_failure, write_outcome
from components.training.processes import leave_mark
from components.training.stopping import leave_with_parents


class Fragile(nn.Module):
    """A layer whose loss, or whose gradient alone, can be spoiled."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.fault = ""

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        loss = self.body(batch).pow(2).mean()
        if self.fault == "loss":
            loss = loss * float("nan")
        if self.fault == "gradient":  # the root's slope at zero is infinite
            loss = loss + (self.body.weight.sum() * 0).sqrt()
        return {"loss": loss}


def weights_of(engine: Engine) -> Tensor:
    return torch.cat([value.detach().flatten().clone() for value in engine.state_dict().values()])


def step(engine: Engine, module: Fragile, fault: str) -> bool:
    module.fault = fault if distributed.rank() == 1 else ""
    engine.forward_backward(torch.ones(2, 4))
    norm = engine.update(0.1)
    assert bool(norm.isfinite()) is not engine.refused(now=False)
    return engine.refused(now=False)


def run(config: TrainConfig, fault: str) -> dict[str, Any]:
    torch.manual_seed(0)
    module = Fragile()
    engine = Engine(module, config)
    first = weights_of(engine)
    refused = [step(engine, module, "")]
    good = weights_of(engine)
    refused.append(step(engine, module, fault))
    kept = weights_of(engine)
    refused.append(step(engine, module, ""))
    last = weights_of(engine)
    engine.close()
    return {
        "refused": distributed.gather_objects(refused),
        "moved": bool((good != first).any()),
        "kept": torch.equal(kept, good),
        "goes on": bool(last.isfinite().all() and (last != kept).any()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work-dir", type=Path, required=True)
    work_dir: Path = parser.parse_args().work_dir
    leave_with_parents()
    leave_mark(work_dir)
    try:
        result = {}
        for stage in range(3):
            for clip in (0.0, 1.0):
                values = {"steps": 3, "batch_size": 2, "optim": {"clip": clip}, "deepspeed": {"zero_stage": stage}}
                config = TrainConfig.model_validate(values)
                if not result:
                    start_process_group(config)
                for fault in ("loss", "gradient"):
                    result[f"{stage} {clip} {fault}"] = run(config, fault)
        if distributed.is_main():
            write_outcome(work_dir, result)
        distributed.barrier()
        end_process_group()
    except Exception as error:
        write_failure(work_dir, error)
        raise


if __name__ == "__main__":
    main()
