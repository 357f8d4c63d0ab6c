"""The product's errors, one small tree.

    CapfiltError
    ├── ConfigError     a config, an option or an argument is wrong; nothing was started (exit code 2)
    ├── StorageError    a folder, a bucket or a disk refuses us
    ├── DataError       input data, a shard or a manifest is not what it claims to be
    ├── ModelError      a checkpoint or a model folder does not fit
    ├── DivergedError   training produced a non-finite loss
    ├── GateError       a guard (caption collapse, quality gate) stopped the run
    └── PreemptedError  a training was stopped by a signal and saved its state (exit code 130, like Ctrl-C)

Every message says what is wrong, where, and how to mend it.
"""


class CapfiltError(Exception):
    """Base of every error the product raises on purpose."""


class ConfigError(CapfiltError):
    """A config, option or argument is wrong; no work was started."""


class StorageError(CapfiltError):
    """A store refuses us or is out of reach.

    Args:
        message: what, where and how to mend it.
        retryable: whether trying again later can heal it (time-outs, 5xx), unlike bad keys or a full disk.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class DataError(CapfiltError):
    """Input data, a shard or a manifest is not what it claims to be."""


class ModelError(CapfiltError):
    """A checkpoint or a model folder does not fit the model."""


class DivergedError(CapfiltError):
    """Training produced a non-finite loss."""


class GateError(CapfiltError):
    """A guard stopped the run: caption collapse, or a quality gate."""


class PreemptedError(CapfiltError):
    """Training was asked to stop and saved its state; started again, it goes on from there."""
