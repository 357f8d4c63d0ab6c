"""Text tokens as one list, without the padding between them.

Shapes: R text rows, T tokens of a row, n tokens computed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Which of R rows of T tokens are computed: all of them, or those alone that are no padding.

    Captions of one batch differ in length, and most of the work is done token by token: leaving padding out saves its
    share of that. It is done where finding the tokens costs nothing, on the CPU; a device would have to be waited for.

    Attributes:
        rows, length: R and T.
        places: int64 `[n]`, positions in R * T of the tokens computed; None for all.
        mask: bool `[R, 1, 1, T]` for attention, False on padding; None where nothing is padded.
    """

    rows: int
    length: int
    places: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor | None) -> "Tokens":
        """Tokens of ids `[R, T]` under a padding mask `[R, T]`, 0 or False on padding, None if nothing is padded."""
        rows, length = ids.shape
        if mask is None:
            return cls(rows, length)
        seen = mask.bool()
        key_mask = seen[:, None, None, :]
        if seen.device.type != "cpu" or torch.compiler.is_compiling():
            return cls(rows, length, None, key_mask)
        places = seen.flatten().nonzero()[:, 0]
        if places.shape[0] == rows * length:
            return cls(rows, length)  # and no mask, for faster kernels
        return cls(rows, length, places, key_mask)

    def pack(self, values: Tensor) -> Tensor:
        """`[R, T, …]` to `[n, …]`."""
        flat = values.flatten(0, 1)
        return flat if self.places is None else flat.index_select(0, self.places)

    def spread(self, values: Tensor) -> Tensor:
        """`[n, …]` to `[R, T, …]`, zero on what is not computed."""
        shape = (self.rows, self.length, *values.shape[1:])
        if self.places is None:
            return values.view(shape)
        room = values.new_zeros(self.rows * self.length, *values.shape[1:])
        return room.index_copy(0, self.places, values).view(shape)
