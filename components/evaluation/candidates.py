"""What ITM is asked about images and texts that ITC found near, each pair once, a bounded number of pairs at a time.

Shapes: N images, T texts, K candidates per query, P pairs of some images, n of those.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from components.evaluation.nearest import room
from components.inference.memory import batches

ROWS = 1 << 14  # queries whose candidates are looked at together
PAIRS = 1 << 18  # pairs scored before the next ones are looked for, some 30 MiB


class Candidates:
    """Candidate texts [N,K] of images and candidate images [T,K] of texts by number, and what ITM says of them."""

    def __init__(self, texts: Tensor, images: Tensor) -> None:
        self.texts, self.images = texts, images
        self.text_scores, self.image_scores = (room(_shape(grid), torch.float32) for grid in (texts, images))

    def groups(self, parts: Sequence[range]) -> Iterator[list[range]]:
        """Batches of images, as many together as ask for some `PAIRS` pairs."""
        asked = torch.full((len(self.texts),), self.texts.shape[1])
        for numbers in batches(len(self.images), ROWS):
            asked += torch.bincount(self.images[numbers.start : numbers.stop].flatten(), minlength=len(asked))
        group: list[range] = []
        for part in parts:
            group.append(part)
            if int(asked[group[0].start : part.stop].sum()) >= PAIRS:
                yield group
                group = []
        if group:
            yield group

    def asking(self, images: range) -> Tensor:
        """Flat places in the grid of candidate images that hold one of these."""
        found = []
        for numbers in batches(len(self.images), ROWS):
            part = self.images[numbers.start : numbers.stop].flatten()
            inside = (part >= images.start) & (part < images.stop)
            found.append(inside.nonzero()[:, 0] + numbers.start * self.images.shape[1])
        return torch.cat(found)


def _shape(grid: Tensor) -> tuple[int, int]:
    return grid.shape[0], grid.shape[1]


@dataclass(frozen=True)
class Wanted:
    """The pairs of some images that either direction asks for, each once, by their codes: image x U + different text.

    Attributes:
        images: which.
        codes: of all pairs, in order [P].
        rows, columns: their images and texts [P].
        of_texts: codes [n,K] that these images ask for.
        places, of_images: where texts ask for these images, and the codes.
    """

    images: range
    codes: Tensor
    rows: Tensor
    columns: Tensor
    of_texts: Tensor
    places: Tensor
    of_images: Tensor

    @classmethod
    def of(cls, candidates: Candidates, images: range, twin: Tensor, texts: int) -> "Wanted":
        """Those of these images, for U `texts` of which `twin` [T] says which one each text is."""
        own = torch.arange(images.start, images.stop)[:, None]
        of_texts = own * texts + twin[candidates.texts[images.start : images.stop]]
        places = candidates.asking(images)
        of_images = candidates.images.view(-1)[places] * texts + twin[places // candidates.images.shape[1]]
        codes = torch.cat([of_texts.flatten(), of_images]).unique(sorted=True)  # type: ignore[no-untyped-call]
        return cls(images, codes, codes // texts, codes % texts, of_texts, places, of_images)

    def hand_over(self, scores: Tensor, candidates: Candidates) -> None:
        """Put scores [P] where they were asked for."""
        candidates.text_scores[self.images.start : self.images.stop] = scores[
            torch.searchsorted(self.codes, self.of_texts)
        ]
        candidates.image_scores.view(-1)[self.places] = scores[torch.searchsorted(self.codes, self.of_images)]
