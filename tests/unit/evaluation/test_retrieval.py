"""Retrieval against a plain-loop version of the paper's procedure, on a small model with made-up weights."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

from components.common.errors import DataError, ModelError, StorageError
from components.evaluation import candidates, nearest, retrieval
from components.evaluation.config import RetrievalConfig
from components.evaluation.retrieval import RetrievalTask, owners_of, retrieval_metrics

RECALLS = [f"{way}_recall_at_{k}" for way in ("text", "image") for k in (1, 5, 10)]


@dataclass
class KeysValues:
    means: torch.Tensor

    def select(self, index):
        return KeysValues(self.means[index])


class ToyFilter:
    """Means of pixels and of token vectors through fixed random matrices; padding must not show."""

    def __init__(self, width=6, seed=0, noise=0.0):
        generator = torch.Generator().manual_seed(seed)
        self.image = torch.randn(3, width, generator=generator)
        self.words = torch.randn(50, 3, generator=generator)
        self.cross = torch.randn(3, 3, generator=generator)
        self.encoded = 0
        self.pairs = 0

    def image_features(self, pixels):
        self.encoded += len(pixels)
        means = pixels.mean((2, 3))
        return KeysValues(means), F.normalize(means @ self.image, dim=-1)

    def _text(self, ids, mask):
        mask = mask.float()[..., None]
        return (self.words[ids] * mask).sum(1) / mask.sum(1)

    def text_features(self, ids, mask):
        return F.normalize(self._text(ids, mask) @ self.image, dim=-1)

    def match_logits(self, ids, mask, kv):
        self.pairs += len(ids)
        assert len(kv.means) == 1
        match = ((kv.means @ self.cross) * self._text(ids, mask)).sum(-1)
        return torch.stack([-match, match], dim=-1)


def make_task(captions, seed=0, size=4):
    generator = torch.Generator().manual_seed(seed)
    owners = owners_of(captions)
    lengths = torch.randint(3, 9, (len(owners),), generator=generator)
    mask = (torch.arange(9)[None] < lengths[:, None]).long()
    ids = torch.randint(1, 50, (len(owners), 9), generator=generator) * mask
    pixels = torch.randn(len(captions), 3, size, size, generator=generator)
    return RetrievalTask(len(captions), lambda start, stop: pixels[start:stop], ids, mask, owners), pixels


def slow_recalls(model, task, pixels, top_k):
    """docs/facts.md 9 with loops: -100 everywhere, the top k filled with logit + cosine, best rank."""
    kv, image_embeddings = model.image_features(pixels)
    text_embeddings = model.text_features(task.ids, task.mask)
    similarity = image_embeddings @ text_embeddings.T

    def fill(matrix, of_image):
        scores = torch.full_like(matrix, -100)
        for row in range(len(matrix)):
            for column in matrix[row].topk(min(top_k, matrix.shape[1])).indices.tolist():
                image, text = (row, column) if of_image else (column, row)
                logit = model.match_logits(task.ids[[text]], task.mask[[text]], kv.select([image]))[0, 1]
                scores[row, column] = logit + matrix[row, column]
        return scores.argsort(1, descending=True)

    hits = dict.fromkeys(RECALLS, 0.0)
    order = fill(similarity, True)
    for image in range(len(pixels)):
        rank = min(order[image].tolist().index(t) for t in range(len(task.owners)) if task.owners[t] == image)
        for k in (1, 5, 10):
            hits[f"text_recall_at_{k}"] += (rank < k) / len(pixels)
    order = fill(similarity.T.contiguous(), False)
    for text in range(len(task.owners)):
        rank = order[text].tolist().index(int(task.owners[text]))
        for k in (1, 5, 10):
            hits[f"image_recall_at_{k}"] += (rank < k) / len(task.owners)
    return hits


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("top_k", [10, 17, 1000])
def test_equals_the_plain_procedure(seed, top_k):
    captions = [1 + (seed + i) % 4 for i in range(23)]
    task, pixels = make_task(captions, seed)
    got = retrieval_metrics(
        ToyFilter(seed=seed), task, RetrievalConfig(top_k=top_k, image_batch=5, pair_batch=7)
    ).metrics
    expected = slow_recalls(ToyFilter(seed=seed), task, pixels, top_k)
    assert {name: got[name] for name in RECALLS} == pytest.approx(expected, abs=1e-6)
    assert got["mean_recall"] == pytest.approx(sum(expected.values()) / 6, abs=1e-6)


@pytest.mark.parametrize("resident", [0, 8, 100])
def test_batches_and_what_stays_in_memory_change_nothing(resident):
    task, _ = make_task([2] * 20)
    expected = retrieval_metrics(ToyFilter(), task, RetrievalConfig())
    small = RetrievalConfig(image_batch=4, text_batch=3, pair_batch=5, resident_images=resident)
    model = ToyFilter()
    got = retrieval_metrics(model, task, small)
    assert got.metrics == pytest.approx(expected.metrics)
    assert got.image_ranks == expected.image_ranks
    assert model.encoded == 20 + (20 - min(resident, 20))


@pytest.mark.parametrize("tile", [1, 7, 1000])
def test_many_images_go_by_tiles_and_through_files(tile, monkeypatch):
    """As many images as do not fit at once: the same ranks to the last, and no file is left."""
    captions = [1 + i % 4 for i in range(23)]
    task, pixels = make_task(captions, seed=1)
    config = RetrievalConfig(top_k=10, image_batch=5)
    expected = retrieval_metrics(ToyFilter(seed=1), task, config)
    scored = ToyFilter(seed=1)
    places = (
        (nearest, "ROWS"),
        (nearest, "COLUMNS"),
        (candidates, "ROWS"),
        (retrieval, "ROWS"),
        (retrieval, "_AT_ONCE"),
    )
    for module, name in places:
        monkeypatch.setattr(module, name, tile)
    monkeypatch.setattr(nearest, "IN_MEMORY", 0)
    monkeypatch.setattr(candidates, "PAIRS", 30 * tile)
    got = retrieval_metrics(scored, task, config)
    assert got.metrics == expected.metrics
    assert str((got.text_ranks, got.image_ranks)) == str((expected.text_ranks, expected.image_ranks))  # nan is nan
    assert {name: got.metrics[name] for name in RECALLS} == pytest.approx(
        slow_recalls(ToyFilter(seed=1), task, pixels, 10), abs=1e-6
    )


def test_neighbours_and_ranks_by_tiles_are_those_of_one_sort(monkeypatch):
    """Of whole numbers, whose products are exact in whatever order they are added up; with twins and other ties."""
    made = torch.Generator().manual_seed(2)
    keys, queries = (torch.randint(-9, 10, (rows, 6), generator=made).double() for rows in (50, 30))
    which = torch.arange(50).clamp(max=44)  # the last six are twins
    cosines = queries @ keys[which].T
    ids = torch.arange(30)
    key_ids = torch.arange(50) % 30
    right = ids[:, None] == key_ids[None]
    best = cosines.masked_fill(~right, -math.inf).amax(1, keepdim=True)
    expected = (cosines > best).sum(1) + ((cosines == best) & ~right).sum(1) / 2
    cpu = torch.device("cpu")
    for tile in (1, 8, 49, 50, 100):
        monkeypatch.setattr(nearest, "COLUMNS", tile)
        monkeypatch.setattr(nearest, "ROWS", tile)
        rows = nearest.Rows(keys, cpu, which)
        found = nearest.nearest(nearest.Rows(queries, cpu), rows, 12)
        torch.testing.assert_close(cosines.gather(1, found), cosines.sort(1, descending=True).values[:, :12])
        assert all(len(set(row)) == 12 for row in found.tolist())
        assert nearest.cosine_ranks(nearest.Rows(queries, cpu), rows, ids, key_ids).tolist() == expected.tolist()


def test_a_large_matrix_lies_in_a_file_that_goes_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr(nearest, "IN_MEMORY", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = nearest.room((100, 7), torch.float32)
    rows[:] = torch.arange(700.0).view(100, 7)
    assert rows[99, 6] == 699
    assert list(tmp_path.iterdir()) == []

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StorageError, match=r"no room for 3 MiB of features .No space left on device.*TMPDIR"):
        nearest.room((1000, 1000), torch.float32)
    assert list(tmp_path.iterdir()) == []


def test_pairs_are_scored_once():
    task, _ = make_task([1] * 12)
    model = ToyFilter()
    done = []
    retrieval_metrics(model, task, RetrievalConfig(top_k=100, image_batch=5), done.append)
    assert model.pairs == 12 * 12
    assert done == [5, 5, 2]


def test_equal_texts_have_equal_scores_whatever_batch_they_fall_into():
    """A model whose rounding depends on a text's place in its batch must not break the tie of twins."""

    class Rounding(ToyFilter):
        def match_logits(self, ids, mask, kv):
            return super().match_logits(ids, mask, kv) + torch.arange(len(ids))[:, None] * 1e-6

    task, pixels = make_task([1] * 24)
    task.ids[1:12:2], task.mask[1:12:2] = task.ids[0:12:2], task.mask[0:12:2]
    for pair_batch in (1, 5, 64):
        model = Rounding()
        got = retrieval_metrics(model, task, RetrievalConfig(top_k=64, pair_batch=pair_batch))
        assert model.pairs == 24 * 18
        assert all(rank % 1 == 0.5 for rank in got.text_ranks[:12])


def test_a_model_that_knows_scores_one_and_one_that_says_the_same_is_at_chance():
    task, _ = make_task([1] * 40)

    class Oracle(ToyFilter):
        def image_features(self, pixels):
            start = next(i for i in range(40) if torch.equal(task.squares(i, i + 1)[0], pixels[0]))
            eye = torch.eye(40)[start : start + len(pixels)]
            return KeysValues(eye), eye

        def text_features(self, ids, mask):
            return torch.stack([torch.eye(40)[self._number(row)] for row in ids])

        def _number(self, row):
            return next(i for i in range(40) if torch.equal(task.ids[i, : len(row)], row))

        def match_logits(self, ids, mask, kv):
            return torch.zeros(len(ids), 2)

    class Constant(ToyFilter):
        def text_features(self, ids, mask):
            return torch.ones(len(ids), 4) / 2

        def image_features(self, pixels):
            return KeysValues(torch.zeros(len(pixels), 1)), torch.ones(len(pixels), 4) / 2

        def match_logits(self, ids, mask, kv):
            return torch.zeros(len(ids), 2)

    assert retrieval_metrics(Oracle(), task, RetrievalConfig()).metrics["mean_recall"] == 1
    got = retrieval_metrics(Constant(), task, RetrievalConfig(top_k=64)).metrics
    assert got["mean_recall"] == 0  # the right one ranks in the middle of forty


def test_an_answer_beyond_the_candidates_is_not_found():
    task, pixels = make_task([1] * 30, seed=3)
    ranks = retrieval_metrics(ToyFilter(seed=3), task, RetrievalConfig(top_k=10)).text_ranks
    assert any(math.isnan(rank) for rank in ranks)
    assert all(rank < 10 for rank in ranks if not math.isnan(rank))


def test_a_diverged_model_is_refused_rather_than_ranked():
    task, _ = make_task([1] * 12)

    class Diverged(ToyFilter):
        def match_logits(self, ids, mask, kv):
            return super().match_logits(ids, mask, kv) * float("nan")

    with pytest.raises(ModelError, match="not finite"):
        retrieval_metrics(Diverged(), task, RetrievalConfig())


def test_images_without_captions_are_refused():
    task, pixels = make_task([1, 1, 1])
    lonely = RetrievalTask(4, task.squares, task.ids, task.mask, task.owners)
    with pytest.raises(DataError, match="at least one caption"):
        retrieval_metrics(ToyFilter(), lonely, RetrievalConfig())
    empty = RetrievalTask(0, task.squares, task.ids[:0], task.mask[:0], task.owners[:0])
    with pytest.raises(DataError, match="nothing to retrieve"):
        retrieval_metrics(ToyFilter(), empty, RetrievalConfig())
