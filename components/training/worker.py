"""What every process of a training does: build what a spec describes, train it, export and publish the model."""

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from components.common import distributed
from components.common.contracts import ModelRole, TrainResult
from components.common.errors import ConfigError, PreemptedError
from components.common.redact import install_redaction
from components.common.seeding import key_seed, seed_everything
from components.common.storage import join_uri, open_store, sha256_file
from components.data.loader import LoaderState, PairLoader
from components.data.questions import common_answers, read_question
from components.model.blip import BlipFilter, BlipPretrain
from components.model.checkpoints import weights
from components.model.checkpoints.answers import write_answers
from components.model.checkpoints.publishing import fetch_tokenizer
from components.model.checkpoints.tensors import WEIGHTS_FILE
from components.model.checkpoints.weights import LoadedModel, Preprocessor
from components.model.groups import freeze
from components.model.learning import (
    CaptionObjective,
    ContrastiveObjective,
    FilterObjective,
    Objective,
    PretrainObjective,
)
from components.model.momentum import NO_IMAGE, Teacher
from components.model.remembered import RememberedTokens, bytes_needed
from components.model.tokenizer import BlipTokenizer
from components.model.vqa import VqaObjective
from components.training.checkpoint import Checkpoints, Saved
from components.training.config import TrainConfig
from components.training.engine import Engine, end_process_group, start_process_group
from components.training.exchange import Exchange
from components.training.feed import PairFeed, QuestionFeed
from components.training.flops import peak_flops
from components.training.loop import Schedule, Training, train
from components.training.outcome import write_failure, write_outcome
from components.training.processes import leave_mark
from components.training.relay import send
from components.training.spec import TrainSpec
from components.training.stopping import EXIT_PREEMPTED, StopSignal, leave_with_parents
from components.training.watch import Alarms, History, Hook, Metrics

logger = logging.getLogger(__name__)

_ROLES: dict[str, ModelRole] = {"pretrain": "base", "captioner": "captioner", "filter": "filter", "vqa": "vqa"}


@dataclass(frozen=True)
class Subject:
    """What is trained: an objective around a model, with the model's tokenizer and its way with images."""

    objective: Objective
    loaded: LoadedModel[Any]


def main(spec: TrainSpec, work_dir: Path) -> int:
    """Run one process of the group. Returns its exit code; the outcome is left in `work_dir`."""
    install_redaction()
    stop = StopSignal()
    leave_with_parents(stop)
    leave_mark(work_dir)
    _log_to_stdout()
    try:
        result = run(spec, work_dir, stop.install())
        if distributed.is_main():
            write_outcome(work_dir, result.model_dump(mode="json"))
        distributed.barrier()
        end_process_group()
    except PreemptedError as error:
        write_failure(work_dir, error)
        return EXIT_PREEMPTED
    except Exception as error:  # the launcher raises it again, in a process that can tell the user
        write_failure(work_dir, error)
        logger.exception("training failed")
        return 1
    return 0


def run(spec: TrainSpec, work_dir: Path, stop: StopSignal) -> TrainResult:
    """Train what the spec describes, from the newest checkpoint if there is one, and publish the model."""
    config = spec.config.with_quirks(spec.objective)
    spec = spec.model_copy(update={"config": config})
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = start_process_group(config)
    if fault := config.lack_of_negatives(spec.objective, distributed.world_size()):
        raise ConfigError(f"{spec.label}: {fault}")
    seed_everything(config.seed)  # the same in all processes: equal first weights
    subject = _prepared(build_subject(spec, work_dir), config)
    kept = config.checkpoint
    checkpoints = Checkpoints(
        work_dir / "checkpoints", keep=kept.keep, keep_best=kept.keep_best, exchange=Exchange.of_environment()
    )
    newest = checkpoints.newest()
    state = newest.state if newest is not None else {}
    if newest is not None:
        _check_same_training(newest, spec)
    accumulation = _accumulation(config, state)
    engine = Engine(
        subject.objective,
        config,
        accumulation=accumulation,
        count_flops=peak_flops(config.precision) is not None,
        bounds=subject.objective.bounds(),
    )
    cursor = LoaderState.model_validate(state["feed"]) if state else None
    loader = _loader(spec, subject.loaded.preprocessor, cursor)
    _remember_images(subject, config, device, loader.pairs_per_epoch)
    seed_everything(key_seed(config.seed, distributed.rank()) % 2**31)  # dropout differs between processes
    if newest is not None:
        checkpoints.restore(newest, engine, subject.objective)
        logger.info("going on from %s", newest.path)
    global_batch = config.batch_size * accumulation * distributed.world_size()
    schedule = Schedule.of(config, pairs_per_epoch=loader.pairs_per_epoch, global_batch=global_batch)
    history, start = History(work_dir / "history.jsonl"), int(state.get("step", 0))
    training = Training(
        engine,
        subject.objective,
        _feed(spec, subject, loader, device),
        schedule,
        checkpoints,
        hooks=_hooks(subject.objective, engine, schedule, history, start),
        note={"fingerprint": spec.fingerprint, "global_batch": global_batch},
    )
    logger.info("ready %.1f s after the process started", time.time() - psutil.Process().create_time())
    started = time.monotonic()
    train(training, stop, start)
    seconds = time.monotonic() - started
    result = (
        _publish(spec, work_dir, subject, history, schedule.total_steps, seconds) if distributed.is_main() else None
    )
    engine.close()
    published: TrainResult = distributed.broadcast_object(result)
    return published


def build_subject(spec: TrainSpec, work_dir: Path) -> Subject:
    """The objective of a spec around its model: new, or from the base model's folder."""
    config = spec.config
    if spec.base is None:
        return _from_scratch(spec, work_dir)
    base = spec.base
    folder = _once_per_machine(lambda: weights.fetch_model(base.uri, work_dir / "models", digest=base.digest or None))
    if spec.objective == "captioner":
        captioner = weights.load_captioner(folder, image_size=config.image_size)
        prompt = captioner.tokenizer.prompt_ids(config.prompt)
        return Subject(CaptionObjective(captioner.model.train(), len(prompt)), captioner)
    if spec.objective == "filter":
        chosen = weights.load_filter(folder, image_size=config.image_size)
        return Subject(FilterObjective(chosen.model.train(), **_contrast_options(chosen.model, config)), chosen)
    if spec.objective == "vqa":
        answering = weights.load_vqa(folder, image_size=config.image_size)
        return Subject(VqaObjective(answering.model.train()), answering)
    pretrained = weights.load_base(folder, image_size=config.image_size)
    objective = _pretraining(pretrained.model.train(), config)
    teacher = weights.load_teacher(folder)
    if teacher is not None:
        objective.load_teacher_state(teacher)
    return Subject(objective, pretrained)


def _prepared(subject: Subject, config: TrainConfig) -> Subject:
    """Set what is no part of the model: what is frozen, recomputed activations, compilation."""
    freeze(subject.objective, config.optim.freeze)
    vision = subject.loaded.model.vision_model
    wanted = config.checkpointed_layers
    if wanted is not None:
        layers = (vision.config.depth if wanted else 0) if isinstance(wanted, bool) else wanted
        vision.config = vision.config.model_copy(update={"checkpoint_layers": layers})
    if config.compile:
        subject.objective.compile()
    return subject


def _remember_images(subject: Subject, config: TrainConfig, device: torch.device, most: int) -> None:
    """Look at each image once only, where that is enough and its tokens have room: on CPUs, which have little else."""
    vision = subject.loaded.model.vision_model
    frozen = "vision" in config.optim.freeze and vision.config.drop_path == 0
    room = config.cache_decoded_mb << 20
    if frozen and config.shows_alike and device.type == "cpu" and bytes_needed(vision, most) <= room:
        subject.objective.remembered = RememberedTokens(vision, most)


def _from_scratch(spec: TrainSpec, work_dir: Path) -> Subject:
    if spec.model is None or spec.tokenizer is None or spec.objective != "pretrain":
        raise ConfigError(f"{spec.label}: only pre-training starts from scratch; give {spec.objective} a base model")
    uri = spec.tokenizer
    tokenizer = _once_per_machine(lambda: fetch_tokenizer(uri, work_dir / "tokenizer"))
    config = spec.model.for_tokenizer(BlipTokenizer.load(tokenizer))
    if spec.config.image_size is not None:
        config = config.with_vision(image_size=spec.config.image_size)
    loaded = LoadedModel(BlipPretrain(config), BlipTokenizer.load(tokenizer), Preprocessor(config.vision.image_size))
    return Subject(_pretraining(loaded.model, spec.config), loaded)


def _pretraining(model: BlipPretrain, config: TrainConfig) -> PretrainObjective:
    return PretrainObjective(
        model, same_image_negatives=config.same_image_negatives, **_contrast_options(model, config)
    )


def _contrast_options(model: BlipPretrain | BlipFilter, config: TrainConfig) -> dict[str, Any]:
    return {
        "teacher": Teacher(model, dropout=config.teacher_dropout),
        "joint_positives": config.joint_positives,
        "all_rank_negatives": config.all_rank_negatives,
        "negative_temperature": config.negative_temperature,
        "ramp_epochs": config.alpha_ramp_epochs,
    }


def _once_per_machine(fetch: Callable[[], Path]) -> Path:
    """Let one process of each machine fetch first; the others find it fetched."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    path = fetch() if first else None
    distributed.barrier()
    return path if path is not None else fetch()


def _check_same_training(saved: Saved, spec: TrainSpec) -> None:
    if saved.state.get("fingerprint") != spec.fingerprint:
        raise ConfigError(
            f"the checkpoint {saved.path} belongs to a training with other data, model or settings; remove "
            f"{saved.path.parent.parent} to start anew, or give this training another folder"
        )


def _accumulation(config: TrainConfig, state: Mapping[str, Any]) -> int:
    """Micro-batches per step: as configured; on resume such that the global batch stays what it was."""
    per_micro_step = config.batch_size * distributed.world_size()
    wanted = int(state.get("global_batch", per_micro_step * config.accumulation))
    if wanted % per_micro_step:
        raise ConfigError(
            f"the checkpoint's training has {wanted} pairs per step, which {distributed.world_size()} processes of "
            f"batch_size {config.batch_size} cannot share evenly; go on with a number of processes that divides "
            f"{wanted // config.batch_size}, or with another batch_size"
        )
    return wanted // per_micro_step


def _loader(spec: TrainSpec, preprocessor: Preprocessor, cursor: LoaderState | None) -> PairLoader:
    config = spec.config.model_copy(update={"image_size": preprocessor.size})
    datasets = [(use.ref, use.repeat) for use in spec.datasets]
    rank, world = distributed.rank(), distributed.world_size()
    read = read_question if spec.objective == "vqa" else None
    return PairLoader(datasets, config, seed=config.seed, rank=rank, world=world, state=cursor, read=read)


def _feed(spec: TrainSpec, subject: Subject, loader: PairLoader, device: torch.device) -> PairFeed:
    preprocessor = subject.loaded.preprocessor
    shared: dict[str, Any] = {"image_mean": preprocessor.mean, "image_std": preprocessor.std, "device": device}
    shared |= {"max_tokens": spec.config.max_tokens}
    if spec.objective == "vqa":
        answers = {"max_words": spec.config.max_words, "max_answer_tokens": spec.config.max_answer_tokens}
        return QuestionFeed(loader, subject.loaded.tokenizer, **shared, **answers)
    prompt = spec.config.prompt if spec.objective == "captioner" else ""
    return PairFeed(loader, subject.loaded.tokenizer, **shared, prompt=prompt)


def _hooks(objective: Objective, engine: Engine, schedule: Schedule, history: History, start: int) -> tuple[Hook, ...]:
    """What rank 0 does with a point of the curve; the other processes do nothing."""
    if not distributed.is_main():
        return ()
    history.cut_after(start)
    alarms = Alarms(
        itc_classes=_itc_classes(objective, schedule.config.batch_size), patience=max(200, schedule.total_steps // 10)
    )

    global_batch = schedule.config.batch_size * engine.accumulation * distributed.world_size()

    def tell(step: int, metrics: Metrics) -> None:
        metrics = (
            metrics | _watched(objective) | _utilisation(engine, schedule.config, metrics["train/seconds_per_step"])
        )
        history.append(step, metrics)
        send(step=step, total=schedule.total_steps, batch=global_batch, metrics=metrics)

    return (tell, alarms)


def _itc_classes(objective: Objective, batch_size: int) -> int:
    return batch_size + objective.teacher.queue.size if isinstance(objective, ContrastiveObjective) else 0


def _watched(objective: Objective) -> Metrics:
    """Figures that are not losses: how full the queue is, and the GPU's memory."""
    watched: Metrics = {}
    if isinstance(objective, ContrastiveObjective) and objective.teacher.queue.size:
        filled = objective.teacher.queue.image_ids != NO_IMAGE
        watched["train/queue_fill"] = float(filled.float().mean())
    if torch.cuda.is_available():
        watched["train/gpu_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return watched


def _utilisation(engine: Engine, config: TrainConfig, seconds: float) -> Metrics:
    """Share of the GPU's peak that the step's operations make up; nothing where either is unknown."""
    peak = peak_flops(config.precision)
    if peak is None or engine.flops is None:
        return {}
    return {"train/model_flops_utilisation": engine.flops * engine.accumulation / seconds / peak}


def _publish(
    spec: TrainSpec, work_dir: Path, subject: Subject, history: History, steps: int, seconds: float
) -> TrainResult:
    """Export the model's folder, put it into the store, and say what was made."""
    folder = work_dir / "model"
    shutil.rmtree(folder, ignore_errors=True)
    weights.save_model(
        subject.loaded.model,
        subject.loaded.tokenizer,
        folder,
        image_mean=subject.loaded.preprocessor.mean,
        image_std=subject.loaded.preprocessor.std,
        teacher=subject.objective.teacher_state() if spec.objective == "pretrain" else None,
    )
    if spec.objective == "vqa":
        write_answers(folder, common_answers([use.ref for use in spec.datasets], cache_dir=_cache(spec.config)))
    store = open_store(spec.store)
    role = _ROLES[spec.objective]
    # Named by content too: other hardware rounds differently, and must not replace what others refer to.
    name = f"{spec.fingerprint[:16]}-{sha256_file(folder / WEIGHTS_FILE)[:16]}"
    model = weights.publish_model(folder, store.child("models", role, name), role)
    key = f"training/{role}/{name}/history.jsonl"
    store.upload(history.path, key)
    uri = join_uri(store.uri, key)
    return TrainResult(model=model, steps=steps, metrics=history.smoothed(), history_uri=uri, seconds=seconds)


def _cache(config: TrainConfig) -> Path | None:
    """Where the loader keeps copies of shards."""
    return Path(config.cache_dir).expanduser() if config.cache_dir else None


def _log_to_stdout() -> None:
    form = "%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format=form, force=True)
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("components").setLevel(logging.INFO)
