"""The training engine: DeepSpeed behind five methods. The only importer of deepspeed.

What is chosen here and why (measured traps: docs/facts.md 14):

- ZeRO 0, 1 and 2. Stage 3 is refused in the config.
- bf16 is autocast over fp32 parameters, and gradients are reduced in fp32.
- The optimizer is torch's own fused AdamW, so that DeepSpeed compiles none.
- The shared-memory reduction op, which DeepSpeed otherwise compiles at every first use on CPU, is off unless asked for.
"""

import contextlib
import logging
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from components.common import distributed
from components.common.errors import ConfigError, ModelError
from components.model.groups import Place, places
from components.training.config import OptimConfig, TrainConfig
from components.training.finite import Veto
from components.training.flops import counted

logger = logging.getLogger(__name__)

_TAG = "deepspeed"
_IMPORTS_NOT_NEEDED = ("mlflow", "transformers")  # DeepSpeed's autotuner and linear layers: 1.5 s of every start


def check_compiler(config: TrainConfig) -> None:
    """Make sure that what the config asks DeepSpeed or torch to compile can be compiled.

    Raises:
        ConfigError: a compiler, ninja or Python's headers are missing; with the remedy.
    """
    wanted = _compiled_parts(config)
    if not wanted:
        return
    missing = []
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        missing.append("a C++ compiler (`apt-get install g++`)")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        missing.append("Python's headers (`apt-get install python3-dev`)")
    if not shutil.which("ninja", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"):
        missing.append("ninja (`pip install ninja`)")
    if missing:
        raise ConfigError(f"{', '.join(wanted)} compile code at first use, and this machine lacks {', '.join(missing)}")


def _compiled_parts(config: TrainConfig) -> list[str]:
    wanted = []
    if config.deepspeed.shared_memory and not torch.cuda.is_available():
        wanted.append("deepspeed.shared_memory")
    if config.compile:
        wanted.append("compile")
    if config.deepspeed.extra.get("zero_optimization", {}).get("offload_optimizer"):
        wanted.append("deepspeed.extra.zero_optimization.offload_optimizer")
    return wanted


@contextlib.contextmanager
def _not_importable(*names: str) -> Iterator[None]:
    """Let `import name` fail for a while, for packages that are optional to what is being imported."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden, cast(Any, None)))
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


def _deepspeed() -> Any:
    """Import DeepSpeed, quietly and without what it only imports in case."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with _not_importable(*_IMPORTS_NOT_NEEDED):
        import deepspeed
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 has renamed.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    return deepspeed


def start_process_group(config: TrainConfig) -> torch.device:
    """Join the launched process group and return this process's device."""
    deepspeed = _deepspeed()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        device, backend = torch.device("cuda", torch.cuda.current_device()), "nccl"
    else:
        device, backend = torch.device("cpu"), "gloo"
        if not config.deepspeed.shared_memory or int(os.environ.get("WORLD_SIZE", "1")) == 1:
            from deepspeed.git_version_info import compatible_ops

            compatible_ops["deepspeed_shm_comm"] = False
    timeout = timedelta(minutes=config.launch.timeout_minutes)
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout, auto_mpi_discovery=False, verbose=False)
    return device


def end_process_group() -> None:
    """Leave the process group, if there is one."""
    if distributed.is_distributed():
        torch.distributed.destroy_process_group()


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; matrices decay, biases, norms and scalars do not (docs/facts.md 13).

    Its groups carry `lr_factor`, by which encoders learn slower or faster than what starts fresh.
    """
    where = places(module)
    members: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 and not config.decay_everything
            members.setdefault((plain, lr_factor(where[name], config)), []).append(parameter)
    groups = [
        {"params": members[plain, factor], "weight_decay": 0.0 if plain else config.weight_decay}
        | {"lr": config.lr * factor, "lr_factor": factor}
        for plain, factor in sorted(members)
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def lr_factor(place: Place, config: OptimConfig) -> float:
    """By what the learning rate is multiplied for a parameter at this place."""
    factors = {"vision": config.lr_vision, "text": config.lr_text, "fresh": 1.0}
    return factors[place.part] * config.layer_decay**place.height


def deepspeed_config(config: TrainConfig, accumulation: int) -> dict[str, Any]:
    """The DeepSpeed JSON of a training, the user's own keys merged over ours."""
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.optim.clip,
        "zero_optimization": {"stage": config.deepspeed.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
    }
    if config.precision == "auto":
        raise ConfigError("a training's precision is settled before its processes start: give fp32 or bf16 here")
    if config.precision == "bf16":
        ours["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return _merged(ours, config.deepspeed.extra)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return merged


class Engine:
    """A module with its optimizer, spread over the process group.

    Args:
        module: its forward takes a batch and gives `loss` and what else is to be watched.
        config: precision, optimizer, DeepSpeed settings.
        accumulation: micro-batches per step, if not the config's.
        count_flops: count the operations of the first micro-batch, into `flops`.
        bounds: parameters with the lowest and highest value that a step may leave them at.
    """

    def __init__(
        self,
        module: nn.Module,
        config: TrainConfig,
        *,
        accumulation: int | None = None,
        count_flops: bool = False,
        bounds: Sequence[tuple[nn.Parameter, float, float]] = (),
    ) -> None:
        deepspeed = _deepspeed()
        self.accumulation = accumulation or config.accumulation
        settings = deepspeed_config(config, self.accumulation)
        self._optimizer = build_optimizer(module, config.optim)
        self._lr_factors: list[float] = [group["lr_factor"] for group in self._optimizer.param_groups]
        try:
            self._engine = deepspeed.initialize(model=module, optimizer=self._optimizer, config=settings)[0]
        except (ValueError, AssertionError, deepspeed.DeepSpeedConfigError) as error:
            raise ConfigError(f"DeepSpeed refuses its settings {settings}: {error}; see deepspeed.extra") from error
        self.device: torch.device = self._engine.device
        self.flops: float | None = None
        self._count_flops = count_flops
        self._bounds = bounds
        self._losses: list[Tensor] = []
        self._veto = Veto()
        if self._engine.zero_optimization():
            self._watch_norm(self._engine.optimizer)

    def forward_backward(self, batch: Any) -> dict[str, Tensor]:
        """One micro-batch: losses and gradients. Call `accumulation` times, then `update`."""
        if self._count_flops:
            self._count_flops = False
            with torch.compiler.set_stance("force_eager"):  # what is counted is what torch dispatches
                outputs, self.flops = counted(lambda: self._forward_backward(batch))
            return outputs
        return self._forward_backward(batch)

    def _forward_backward(self, batch: Any) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self._engine(batch)
        self._losses.append(outputs["loss"].detach())
        self._engine.backward(outputs["loss"])
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
        return {name: value.detach() for name, value in outputs.items()}

    def update(self, lr: float) -> Tensor:
        """One optimizer step at the given learning rate, unless a loss or the gradient is not finite in any process.

        Returns the gradient's norm before clipping; not a number if it is not finite.
        """
        # torch's fused AdamW has this for gradient scalers: with a one here it touches nothing (torch 2.10 to 2.13).
        self._optimizer.found_inf = self._veto.on(self._losses)  # type: ignore[attr-defined]
        self._losses = []
        for group, factor in zip(self._engine.optimizer.param_groups, self._lr_factors, strict=True):
            group["lr"] = lr * factor
        norm = None
        if not self._engine.zero_optimization():
            gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            self._veto.on_norm(norm)
        self._engine.step()
        self._clamp()
        norm = self._engine.get_global_grad_norm() if norm is None else norm
        return self._veto.honest(torch.as_tensor(0.0 if norm is None else norm).detach())

    def _watch_norm(self, zero: Any) -> None:
        """Look at the norms of the gradient's groups where ZeRO has just made them, before it steps."""

        def watched(make: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                norm = make(*arguments, **options)
                self._veto.on_norm(torch.as_tensor(norm))
                return norm

            return call

        for name in ("get_grad_norm_direct", "complete_grad_norm_calculation_for_cpu_offload"):
            setattr(zero, name, watched(getattr(zero, name)))

    def refused(self, *, now: bool) -> bool:
        """Whether a step was not taken, the same in all processes: `now` the last one, else one of those before it."""
        return self._veto.was_used(now=now)

    @torch.no_grad()
    def _clamp(self) -> None:
        """Keep bounded parameters in their range.

        ZeRO steps a copy of its own and writes it over the parameter: what is clamped in the parameter alone drifts on
        there, unseen, and must come all the way back before it moves again. The process that holds the copy clamps it.
        """
        for parameter, low, high in self._bounds:
            parameter.clamp_(low, high)
            mapping = getattr(parameter, "_hp_mapping", None)
            if mapping is not None:
                mapping.get_hp_fragment().clamp_(low, high)

    def save(self, folder: Path, client_state: dict[str, Any]) -> None:
        """Write DeepSpeed's checkpoint under `folder`; every process calls this."""
        self._engine.save_checkpoint(str(folder), tag=_TAG, client_state=client_state, save_latest=False)

    def load(self, folder: Path) -> dict[str, Any]:
        """Read a checkpoint of any number of processes; every process calls this. Returns its client state.

        Raises:
            ModelError: the checkpoint is another model's.
        """
        partitions = sorted((folder / _TAG).glob("*zero_pp_rank_*_optim_states.pt"), key=_partition_number)
        moved = bool(partitions) and len(partitions) != distributed.world_size()
        try:
            _, client_state = self._engine.load_checkpoint(str(folder), tag=_TAG, load_module_only=moved)
        except (RuntimeError, KeyError, ValueError) as error:
            raise ModelError(f"the checkpoint {folder} does not fit this training: {error}") from error
        if moved:
            self._repartition(partitions)
        return cast(dict[str, Any], client_state)

    def _repartition(self, partitions: list[Path]) -> None:
        """Cut the optimizer state of another number of processes anew: exact, since only end padding differs."""
        from deepspeed.runtime.fp16.loss_scaler import LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address

        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            saved = [torch.load(path, map_location="cpu", weights_only=True) for path in partitions]
        states = [part["optimizer_state_dict"]["base_optimizer_state"]["state"] for part in saved]
        zero = self._engine.optimizer
        for index, group in enumerate(zero.optimizer.param_groups):
            own = group["params"][0]
            mine = {name: _own_part([state[index][name] for state in states], own) for name in states[0].get(index, {})}
            if mine:
                zero.optimizer.state[own] = mine

    def state_dict(self) -> dict[str, Tensor]:
        """The full fp32 weights, from any ZeRO stage offered here (parameters are whole in all of them)."""
        return cast(dict[str, Tensor], self._engine.module.state_dict())

    def close(self) -> None:
        """Let go of buffers and hooks."""
        self._engine.destroy()


def _partition_number(path: Path) -> int:
    return int(path.name.split("zero_pp_rank_")[1].split("_")[0])


def _own_part(parts: list[Tensor], own: Tensor) -> Tensor:
    """This process's slice of a flat state that was cut in `parts`, padded to the shape of `own`."""
    if parts[0].ndim == 0:
        return parts[0].clone()
    start = distributed.rank() * own.numel()
    piece = torch.cat(parts)[start : start + own.numel()].to(own.device)
    return torch.nn.functional.pad(piece, (0, own.numel() - piece.numel()))
