"""The slow teacher of image-text contrast: momentum copies of the unimodal encoders, and queues of their features.

Both are kept outside the module that the training engine owns, in fp32 whatever the model's precision: at a momentum
of 0.995 a bf16 average never moves (docs/facts.md 14), and an engine that casts, shards or broadcasts parameters
would take hold of them. Both advance once per optimizer step, not per forward pass.

Shapes: B pairs of this process, W processes, Q queue length, d shared embedding width.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.common.distributed import all_gather
from components.common.errors import ModelError
from components.model.vision import resize_positions

if TYPE_CHECKING:
    from components.model.blip import BlipFilter, BlipPretrain

NO_IMAGE = -100
"""Image id of a queue row that holds noise still, equal to no image's id."""


class MomentumAverage:
    """fp32 running averages of some modules' parameters: `p_m <- m p_m + (1 - m) p` (ALBEF 3.2).

    The copies start equal to the originals, take no gradient, and run in eval mode unless `dropout` is set (the
    reference leaves the teacher's dropout on; a steadier teacher is the default here). Submodules in `left_out` are
    never called and not copied.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        momentum: float = 0.995,
        *,
        dropout: bool = False,
        left_out: Iterable[nn.Module] = (),
    ) -> None:
        if not 0.0 <= momentum <= 1.0:
            raise ModelError(f"momentum must be between 0 and 1, not {momentum}: 0.995 is the paper's value")
        self.momentum = momentum
        self._sources = dict(modules)
        memo: dict[int, Any] = {id(module): nn.Identity() for module in left_out}
        copies = copy.deepcopy(self._sources, memo)  # one memo: what the modules share stays shared in the copies
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

    @property
    def device(self) -> torch.device:
        """Where the copies are."""
        return next(self.modules.parameters()).device

    def to(self, device: torch.device | str) -> None:
        """Move the copies to a device."""
        self.modules.to(device)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name, `<module>.<parameter>`, fp32; no copies."""
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
        """Every averaged parameter with its original; one that modules share, once."""
        originals = {
            f"{name}.{parameter}": value
            for name, module in self._sources.items()
            for parameter, value in module.named_parameters()
        }
        for name, average in self.modules.named_parameters():
            yield average, originals[name]


class MomentumEncoders(MomentumAverage):
    """Momentum copies of what ITC needs: both encoders without cross-attention and decoder, and both projections."""

    def __init__(self, model: "BlipPretrain | BlipFilter", *, dropout: bool = False) -> None:
        names = ("vision_model", "vision_proj", "text", "text_proj")
        text = model.text
        layers: Any = text.layers
        unused = [getattr(layer, part, None) for layer in layers for part in ("cross_attention", "decoder_attention")]
        super().__init__(
            {name: getattr(model, name) for name in names},
            model.config.momentum,
            dropout=dropout,
            left_out=[module for module in (*unused, getattr(text, "head", None)) if module is not None],
        )
        self._student = model.vision_proj
        self._sees_alike: bool | None = None

    @torch.no_grad()
    def features(
        self, pixels: Tensor, ids: Tensor, mask: Tensor | None, tokens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Momentum features of images `[B, 3, S, S]` and texts `[B, T]`: two of `[B, d]`, of length 1, no gradient.

        The student's `tokens` of the images are taken where the momentum encoder would compute the very same.
        """
        if self.device != pixels.device:
            self.to(pixels.device)
        modules: Any = self.modules
        with self._student_precision(pixels.device.type):
            seen = tokens if tokens is not None and self.sees_alike() else modules["vision_model"](pixels)
            image = modules["vision_proj"](seen[:, 0])
            text = modules["text_proj"](modules["text"].encode(ids, mask))
        return functional.normalize(image.float(), dim=-1), functional.normalize(text.float(), dim=-1)

    def sees_alike(self) -> bool:
        """Whether the student's vision is frozen and its average equal to it: it then stays so to the last bit."""
        if self._sees_alike is None:
            own: nn.Module = self.modules["vision_model"]
            student: Any = self._sources["vision_model"]
            moves = any(parameter.requires_grad for parameter in student.parameters())
            draws = student.training and student.config.drop_path > 0
            pairs = zip(own.parameters(), student.parameters(), strict=True)
            self._sees_alike = not moves and not draws and all(torch.equal(average, its) for average, its in pairs)
        return self._sees_alike

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take averages from a checkpoint; position embeddings of another image size are interpolated, as the model's.

        Raises:
            ModelError: names or shapes differ from this model's.
        """
        name, own = "vision_model.positions", self.state_dict()
        if name in state:
            patches = own[name].shape[1] - 1
            state = {**state, name: resize_positions(state[name], patches)}
        self._sees_alike = None
        super().load_state_dict(state)

    def _student_precision(self, device_type: str) -> AbstractContextManager[Any]:
        """Compute as the student does: in its 16-bit type where its parameters have one, else as autocast is set."""
        dtype = self._student.weight.dtype
        if dtype in (torch.bfloat16, torch.float16):
            return torch.autocast(device_type, dtype=dtype)
        return nullcontext()


class FeatureQueue:
    """The last Q momentum features of images and of texts with their image ids: negatives beyond the batch.

    Features are rows, `[Q, d]`, L2-normalised noise at first (from a fixed seed, so that all processes agree), with
    image id -100. A batch of any size is written in a ring, also one that does not divide Q or exceeds it.
    """

    def __init__(self, size: int, dim: int, *, device: torch.device | str = "cpu", seed: int = 0) -> None:
        if size < 0:
            raise ModelError(f"queue_size must not be negative, got {size}: 0 switches the queue off, 57600 is BLIP's")
        generator = torch.Generator().manual_seed(seed)
        noise = functional.normalize(torch.randn(2, size, dim, generator=generator), dim=-1)
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

    def to(self, device: torch.device | str) -> None:
        """Move the queue to a device."""
        self.images, self.texts = self.images.to(device), self.texts.to(device)
        self.image_ids = self.image_ids.to(device)

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


class Keys(NamedTuple):
    """What a batch is contrasted with: features `[B + Q, d]` and image ids `[B + Q]`, the batch's own first."""

    images: Tensor
    texts: Tensor
    image_ids: Tensor


class Teacher:
    """Momentum encoders with their queue, and what waits to be enqueued at the end of the optimizer step."""

    def __init__(self, model: "BlipPretrain | BlipFilter", *, dropout: bool = False) -> None:
        self.encoders = MomentumEncoders(model, dropout=dropout)
        self.queue = FeatureQueue(model.config.queue_size, model.config.embed_dim)
        self._waiting: list[Keys] = []

    def keys(
        self,
        pixels: Tensor,
        ids: Tensor,
        mask: Tensor | None,
        image_ids: Tensor,
        *,
        remember: bool,
        tokens: Tensor | None = None,
    ) -> Keys:
        """Keys for a batch. With `remember` (in training) its features wait to be enqueued by `advance`.

        The student's `tokens` of the images spare a second pass where that would give the same.
        """
        own = Keys(*self.encoders.features(pixels, ids, mask, tokens), image_ids)
        if self.queue.image_ids.device != pixels.device:
            self.queue.to(pixels.device)
        if remember:
            self._waiting.append(own)
        queue = self.queue
        return Keys(
            torch.cat([own.images, queue.images]),
            torch.cat([own.texts, queue.texts]),
            torch.cat([own.image_ids, queue.image_ids]),
        )

    def advance(self) -> None:
        """End of an optimizer step: update the encoders, enqueue the features of all its batches and processes.

        Every process must have seen batches of the same sizes.
        """
        self.encoders.update()
        if self._waiting:
            joined = Keys(*(all_gather(torch.cat(part)) for part in zip(*self._waiting, strict=True)))
            self._waiting.clear()
            self.queue.enqueue(*joined)

    def state_dict(self) -> dict[str, Tensor]:
        """`encoders.*` and `queue.*`, for a checkpoint at the end of an optimizer step."""
        encoders = {f"encoders.{name}": value for name, value in self.encoders.state_dict().items()}
        return encoders | {f"queue.{name}": value for name, value in self.queue.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave; ModelError if it does not fit."""
        self._waiting.clear()
        for prefix, part in (("encoders.", self.encoders), ("queue.", self.queue)):
            part.load_state_dict({name[len(prefix) :]: v for name, v in state.items() if name.startswith(prefix)})
