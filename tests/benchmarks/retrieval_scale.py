"""How much memory the evaluation of retrieval takes over many images: features and match scores are made up.

python -m tests.benchmarks.retrieval_scale --images 20000 --captions 1
"""

import argparse
import resource
import time

import torch
from torch import Tensor
from torch.nn import functional

from components.evaluation.config import RetrievalConfig
from components.evaluation.retrieval import RetrievalTask, owners_of, retrieval_metrics


class KeysValues:
    """The images' numbers stand for what ITM would read of them."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def select(self, index: Tensor) -> "KeysValues":
        """Those of some."""
        return KeysValues(self.numbers[index])


class Synthetic:
    """Embeddings that follow from numbers: a text's near its image's, and scores that follow from both numbers."""

    def __init__(self, images: int, width: int) -> None:
        self.width, self.places = width, torch.randn(images, width, generator=torch.Generator().manual_seed(0))

    def image_features(self, numbers: Tensor) -> tuple[KeysValues, Tensor]:
        """Of images by number."""
        return KeysValues(numbers), functional.normalize(self.places[numbers], dim=-1)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Of texts, whose first token is their image's number and whose second is theirs."""
        noise = torch.sin(ids[:, 1:2] * torch.arange(1, self.width + 1))
        return functional.normalize(self.places[ids[:, 0]] + 2 * noise, dim=-1)

    def match_logits(self, ids: Tensor, mask: Tensor, kv: KeysValues) -> Tensor:
        """High where image and text belong together."""
        match = (ids[:, 0] == kv.numbers).float() * 2 + torch.sin(ids[:, 1].float())
        return torch.stack([-match, match], dim=1)


def main() -> None:
    """Measure once and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("images", 20000), ("captions", 1), ("width", 256), ("top-k", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    owners = owners_of([options.captions] * options.images)
    ids = torch.stack([owners, torch.arange(len(owners))], dim=1)
    task = RetrievalTask(options.images, torch.arange, ids, torch.ones_like(ids), owners)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = retrieval_metrics(Synthetic(options.images, options.width), task, RetrievalConfig(top_k=options.top_k))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"mean recall {found.metrics['mean_recall']:.4f}, by ITC alone {found.metrics['itc_mean_recall']:.4f}")
    print(f"{time.process_time() - start:.0f} CPU seconds, {grown:.0f} MiB more than before at the peak")


if __name__ == "__main__":
    main()
