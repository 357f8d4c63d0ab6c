"""Models in fp64, for tests that two ways of calculating are the same one: there only the order of sums differs.

In fp32 how far sums of another order lie apart depends on the processor; in fp64 it is far below the six digits that
scores are given with.
"""

from typing import Any, TypeVar

from torch import nn

from components.inference.arithmetic import Arithmetic

M = TypeVar("M", bound=nn.Module)

SIXTH_DIGIT = 1.2e-6
"""Scores are rounded to six digits, and what lies on the border of two goes either way: 1e-6, beside fp32's 6e-8."""


class Doubled(Arithmetic):
    """fp64, and pixels with it."""

    def place(self, model: M) -> M:
        """Put a model on the device."""
        model = super().place(model).double()
        model.vision_model.register_forward_pre_hook(_widen)  # type: ignore[operator, union-attr]
        return model


def _widen(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].double(), *inputs[1:])
