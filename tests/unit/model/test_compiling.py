"""What torch.compile needs of an objective: one graph, also when captions differ in length. No C++ compiler is used."""

import pytest
import torch

from tests.unit.model.test_learning import batch, objective


def test_a_step_is_one_graph_at_any_text_length() -> None:
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    plain, stage = objective("pretrain").train(), objective("pretrain").train()
    stage.compile(backend="eager", fullgraph=True)
    for length in (7, 9, 6):
        losses = []
        for one in (plain, stage):
            torch.manual_seed(length)
            losses.append(one(batch(length=length, seed=length))["loss"])
            one.after_step()
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    assert counters["stats"]["unique_graphs"] == 2, "one for the first length, one for all others"
    torch.compiler.reset()
