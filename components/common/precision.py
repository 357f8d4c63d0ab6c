"""Names of arithmetic: as we write them down, and as people type them."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

Precision = Literal["fp32", "bf16", "fp16"]

SPELLINGS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""What torch and transformers call them."""


def canonical(value: Any) -> Any:
    """The name as we write it down; what is none of a precision stays as it is."""
    return SPELLINGS.get(value.strip().lower(), value) if isinstance(value, str) else value


AnyPrecision = Annotated[Literal["auto", "fp32", "bf16", "fp16"], BeforeValidator(canonical)]
"""What can be asked of inference; `auto`: the faster of fp32 and bf16, by a probe."""

TrainPrecision = Annotated[Literal["auto", "fp32", "bf16"], BeforeValidator(canonical)]
"""What can be asked of a training: without a loss scaler, gradients vanish in fp16."""

AUTOMATIC: tuple[Precision, ...] = ("fp32", "bf16")
"""What `auto` may turn out to be."""
