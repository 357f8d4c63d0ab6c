"""The slow teacher of image-text contrast: momentum copies of the unimodal encoders, and queues of their features.

Both are kept outside the module that the training engine owns, in fp32 whatever the model's precision: at a momentum
of 0.995 a bf16 average never moves (reference/mlops.md 3.2), and an engine that casts, shards or broadcasts parameters
would take hold of them. Both advance once per optimizer step, not per forward pass.

Shapes: B pairs of this process, W processes, Q queue length, d shared embedding width.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from components.common.errors import ModelError

NO_IMAGE = -100
"""Image id of a queue row that holds noise still, equal to no image's id."""


class MomentumAverage:
    """fp32 running averages of some modules' parameters: `p_m <- m p_m + (1 - m) p` (ALBEF 3.2).

    The copies start equal to the originals, take no gradient, and run in eval mode unless `dropout` is set (the
    reference leaves the teacher's dropout on; a steadier teacher is the default here).
    """

    def __init__(self, modules: Mapping[str, nn.Module], momentum: float = 0.995, *, dropout: bool = False) -> None:
        if not 0.0 <= momentum <= 1.0:
            raise ModelError(f"momentum must be between 0 and 1, not {momentum}: 0.995 is the paper's value")
        self.momentum = momentum
        self._sources = dict(modules)
        copies = copy.deepcopy(self._sources)  # one memo: what the modules share stays shared in the copies
        self.modules = nn.ModuleDict(copies).float().requires_grad_(False).train(dropout)

    def __getitem__(self, name: str) -> nn.Module:
        """The averaged copy of the module given under `name`."""
        return self.modules[name]

    @torch.no_grad()
    def update(self) -> None:
        """Move every copy a small step towards its original, in place. Call it once per optimizer step."""
        averages, sources = [], []
        for average, source in self._pairs():
            averages.append(average)
            sources.append(source.detach().to(device=average.device, dtype=average.dtype))
        torch._foreach_lerp_(averages, sources, 1.0 - self.momentum)

    @torch.no_grad()
    def reset(self) -> None:
        """Make every copy equal to its original, as at the start."""
        for average, source in self._pairs():
            average.copy_(source)

    def to(self, device: torch.device | str) -> "MomentumAverage":
        """Move the copies to a device."""
        self.modules.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name, `<module>.<parameter>`, fp32."""
        return dict(self.modules.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take averages from a checkpoint.

        Raises:
            ModelError: names or shapes differ from this model's.
        """
        try:
            self.modules.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(f"momentum encoders do not fit this model; resume with its own config: {error}") from error

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        for name, source in self._sources.items():
            yield from zip(self.modules[name].parameters(), source.parameters(), strict=True)


class FeatureQueue:
    """The last Q momentum features of images and of texts with their image ids: negatives beyond the batch.

    Features are rows, `[Q, d]`, L2-normalised noise at first (from a fixed seed, so that all processes agree), with
    image id -100. A batch of any size is written in a ring, also one that does not divide Q or exceeds it.
    """

    def __init__(self, size: int, dim: int, *, device: torch.device | str = "cpu", seed: int = 0) -> None:
        if size < 0:
            raise ModelError(f"queue_size must not be negative, got {size}: 0 switches the queue off, 57600 is BLIP's")
        generator = torch.Generator().manual_seed(seed)
        noise = nn.functional.normalize(torch.randn(2, size, dim, generator=generator), dim=-1)
        self.images, self.texts = (rows.to(device) for rows in noise.unbind())
        self.image_ids = torch.full((size,), NO_IMAGE, dtype=torch.int64, device=device)
        self.pointer = 0

    @property
    def size(self) -> int:
        """Rows held, Q."""
        return self.image_ids.shape[0]

    @torch.no_grad()
    def enqueue(self, images: Tensor, texts: Tensor, image_ids: Tensor) -> None:
        """Write features `[N, d]` and ids `[N]` over the oldest rows; of more than Q only the last Q are kept."""
        if self.size == 0:
            return
        skipped = max(0, image_ids.shape[0] - self.size)
        count = image_ids.shape[0] - skipped
        start = (self.pointer + skipped) % self.size
        rows = (torch.arange(count, device=self.image_ids.device) + start) % self.size
        self.images.index_copy_(0, rows, images[skipped:].to(self.images))
        self.texts.index_copy_(0, rows, texts[skipped:].to(self.texts))
        self.image_ids.index_copy_(0, rows, image_ids[skipped:].to(self.image_ids))
        self.pointer = (start + count) % self.size

    def to(self, device: torch.device | str) -> "FeatureQueue":
        """Move the queue to a device."""
        self.images, self.texts = self.images.to(device), self.texts.to(device)
        self.image_ids = self.image_ids.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Rows, ids and the ring's position."""
        pointer = torch.tensor(self.pointer, dtype=torch.int64)
        return {"images": self.images, "texts": self.texts, "image_ids": self.image_ids, "pointer": pointer}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the queue from a checkpoint.

        Raises:
            ModelError: another size or width than this queue's.
        """
        own: dict[str, Any] = self.state_dict()
        wrong = [name for name, rows in own.items() if name not in state or state[name].shape != rows.shape]
        if wrong:
            raise ModelError(
                f"the checkpoint's queue does not fit (queue_size {self.size}, width {self.images.shape[1]}): "
                f"{', '.join(wrong)} missing or of another shape; keep queue_size and embed_dim as they were"
            )
        self.images.copy_(state["images"])
        self.texts.copy_(state["texts"])
        self.image_ids.copy_(state["image_ids"])
        self.pointer = int(state["pointer"]) % max(1, self.size)
