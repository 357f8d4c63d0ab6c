"""The running averages and the ring of features."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from components.common.errors import ModelError
from components.model.momentum import NO_IMAGE, FeatureQueue, MomentumAverage


def rows(ids: list[int], dim: int = 2) -> torch.Tensor:
    return torch.tensor([[float(i)] * dim for i in ids]).reshape(len(ids), dim)


def test_average_follows_the_formula() -> None:
    model = nn.Linear(3, 2)
    average = MomentumAverage({"head": model}, momentum=0.9)
    expected = [parameter.detach().double() for parameter in model.parameters()]
    for step in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(step + 1.0)
        expected = [0.9 * e + 0.1 * p.detach().double() for e, p in zip(expected, model.parameters(), strict=True)]
        average.update()
    for ours, theirs in zip(average["head"].parameters(), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
        assert not ours.requires_grad


def test_average_of_a_bf16_model_moves() -> None:
    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    average = MomentumAverage({"m": model}, momentum=0.995)
    nn.init.constant_(model.weight, 1.125)
    for _ in range(2000):
        average.update()
    assert average["m"].weight.dtype == torch.float32
    assert average["m"].weight.item() == pytest.approx(1.125, abs=1e-3)


def test_average_updates_in_place_and_keeps_sharing() -> None:
    shared = nn.Linear(2, 2)
    average = MomentumAverage({"a": nn.Sequential(shared), "b": nn.Sequential(shared)})
    assert average["a"][0].weight is average["b"][0].weight
    before = average["a"][0].weight.data_ptr()
    average.update()
    assert average["a"][0].weight.data_ptr() == before


def test_average_is_in_eval_mode_unless_asked() -> None:
    model = nn.Sequential(nn.Dropout(0.5)).train()
    assert not MomentumAverage({"m": model})["m"].training
    assert MomentumAverage({"m": model}, dropout=True)["m"].training


def test_average_state_goes_round_and_refuses_strangers() -> None:
    first = MomentumAverage({"m": nn.Linear(2, 2)})
    second = MomentumAverage({"m": nn.Linear(2, 2)})
    assert not torch.equal(first["m"].weight, second["m"].weight)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first["m"].weight, second["m"].weight)
    with pytest.raises(ModelError, match="do not fit"):
        MomentumAverage({"m": nn.Linear(3, 2)}).load_state_dict(first.state_dict())


def test_momentum_out_of_range_is_refused() -> None:
    with pytest.raises(ModelError, match="0.995"):
        MomentumAverage({"m": nn.Linear(1, 1)}, momentum=1.5)


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(0, 21), max_size=8))
def test_queue_holds_the_last_rows_whatever_the_batches(size: int, batches: list[int]) -> None:
    queue = FeatureQueue(size, 2)
    fed: list[int] = []
    for count in batches:
        ids = list(range(len(fed), len(fed) + count))
        queue.enqueue(rows(ids), -rows(ids), torch.tensor(ids, dtype=torch.int64))
        fed += ids
    held = [i for i in queue.image_ids.tolist() if i != NO_IMAGE]
    assert sorted(held) == fed[-size:]
    assert queue.pointer == len(fed) % size
    for row, image_id in enumerate(queue.image_ids.tolist()):
        if image_id != NO_IMAGE:
            assert queue.images[row].tolist() == [image_id] * 2
            assert queue.texts[row].tolist() == [-image_id] * 2


def test_queue_starts_as_the_same_normalised_noise_everywhere() -> None:
    first, second = FeatureQueue(6, 8), FeatureQueue(6, 8)
    torch.testing.assert_close(first.images, second.images, rtol=0, atol=0)
    torch.testing.assert_close(first.texts.norm(dim=1), torch.ones(6))
    assert not torch.equal(first.images, first.texts)
    assert first.image_ids.tolist() == [NO_IMAGE] * 6


def test_queue_of_no_rows_is_a_queue() -> None:
    queue = FeatureQueue(0, 4)
    queue.enqueue(torch.ones(3, 4), torch.ones(3, 4), torch.arange(3))
    assert queue.images.shape == (0, 4) and queue.pointer == 0
    with pytest.raises(ModelError, match="57600"):
        FeatureQueue(-1, 4)


def test_queue_state_goes_round_and_refuses_other_sizes() -> None:
    queue = FeatureQueue(5, 2)
    queue.enqueue(rows([1, 2, 3]), rows([4, 5, 6]), torch.tensor([1, 2, 3]))
    state = {name: values.clone() for name, values in queue.state_dict().items()}
    other = FeatureQueue(5, 2)
    other.load_state_dict(state)
    for queue_ in (queue, other):
        queue_.enqueue(rows([7, 8, 9]), rows([7, 8, 9]), torch.tensor([7, 8, 9]))
    assert other.image_ids.tolist() == queue.image_ids.tolist() == [9, 2, 3, 7, 8]
    with pytest.raises(ModelError, match="queue_size 4"):
        FeatureQueue(4, 2).load_state_dict(state)
