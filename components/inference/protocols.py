"""What CapFilt needs of a captioner and of a scorer; BLIP's own and those of other families are implementations.

Shapes: images are uint8 RGB, squares `[B, S, S, 3]` for those with a `size`, else (WHOLE) a list of `[H, W, 3]`.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

from components.data.scores import Column, Reading

WHOLE = 0
"""The `size` of those that take images as they are and resize them themselves."""

Finish = Literal["stop", "length", "error"]


class Written(NamedTuple):
    """A text, why it ended (`length`: the limit cut it; `error`: none came), its tokens, and what went wrong."""

    text: str
    finish: Finish
    tokens: int
    detail: str = ""


class Judged(NamedTuple):
    """Readings of each image's texts, one per column; and the images' vectors `[B, d]`, fp32 on the CPU, if any."""

    readings: list[list[tuple[Reading, ...]]]
    vectors: Tensor | None


class AnyCaptioner(Protocol):
    """Writes texts about images."""

    @property
    def size(self) -> int:
        """Side of the squares it wants, in pixels, or WHOLE."""

    def write(self, images: Any, seeds: Sequence[Sequence[int]], /) -> list[list[Written]]:
        """Texts of B images, one per seed; all images have equally many seeds.

        A text depends on its image and seed only, never on its place in the batch.
        """


class AnyScorer(Protocol):
    """Says how well texts fit images."""

    @property
    def size(self) -> int:
        """Side of the squares it wants, in pixels, or WHOLE."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Names and kinds of the values it gives; the first is the one a threshold is held against."""

    def judge_all(self, images: Any, texts: Sequence[Sequence[str]], /) -> Judged:
        """Readings of every image's texts."""

    def score(self, images: Any, texts: Sequence[Sequence[str]], /) -> Sequence[Sequence[tuple[float, ...]]]:
        """The same as plain tuples, the value of the first column first."""

    def read(self, text: str, /) -> str:
        """A text as it is read: texts read alike are one text to it."""

    def embed_images(self, images: Any, /) -> Tensor:
        """Vectors `[B, d]` of length 1, fp32 on the CPU: which texts are near an image is told by them."""

    def embed_texts(self, texts: Sequence[str], /) -> Tensor:
        """Vectors `[R, d]` of length 1, fp32 on the CPU."""
