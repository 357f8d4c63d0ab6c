"""Every setting decides its results or says why not; the digests that results are found by know no others."""

import json
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from components.common.contracts import Calibration, DatasetRef, ModelRef, PurityPoint, ScoreWeights, TokenizerRef
from components.common.identity import deciding, harmless, why_harmless
from components.common.seeding import digest_of
from components.common.storage import open_store
from components.common.surroundings import surroundings
from components.common.tracking import Tracker
from components.config import BootstrapConfig, load_config
from components.data.sampleworld.config import SampleWorldConfig
from components.evaluation.config import MEASUREMENT
from components.inference.settling import PRECISION_KEYS
from components.regeneration.config import CALIBRATION, OUTPUT, CapfiltConfig
from components.regeneration.plan import Plan, WebInput
from components.training.config import CHECKPOINT, TrainConfig
from components.training.spec import DatasetUse, TrainSpec
from flows.assessment import assess_base, measure
from flows.finetuning import finetune
from flows.pretraining import pretrain, start_model
from flows.regeneration import calibrate, regenerate
from flows.stages import BootstrapContext, Stage

DATA = DatasetRef(name="d", uri="/d", digest="d", images=1, pairs=1)
BASE, CAPTIONER, FILTER = (ModelRef(role=role, uri=f"/{role}", digest=role) for role in ("base", "captioner", "filter"))
TOKENIZER = TokenizerRef(uri="/t", digest="t", file_uri="/t/f")
POINT = PurityPoint(threshold=0.7, purity=0.9, yield_share=0.5)
CALIBRATED = Calibration(
    filter="filter", human="h", chosen=POINT, target=0.9, reached=True, curve=(POINT,), images=1, positives=1,
    negatives=1, bad_share=0.5,
)  # fmt: skip


class Inner(BaseModel):
    depth: int = 1
    threads: int = Field(default=1, json_schema_extra=harmless("only the speed"))


class Outer(BaseModel):
    hidden: int = Field(default=1, exclude=True)
    one: Inner = Inner()
    many: tuple[Inner, ...] = (Inner(), Inner(depth=2))
    named: dict[str, Inner] = {"a": Inner()}
    free: dict[str, Any] = {"threads": 3}
    stored: int = Field(default=1, json_schema_extra=harmless("it is only shown", to="picture"))
    newer: float = Field(default=1.0, json_schema_extra=harmless("it was so before", at=1.0))


def test_harmless_fields_are_dropped_at_any_depth() -> None:
    depths = {"one": {"depth": 1}, "many": [{"depth": 1}, {"depth": 2}], "named": {"a": {"depth": 1}}}
    assert deciding(Outer()) == depths | {"free": {"threads": 3}, "stored": 1}
    assert deciding(Outer(), "picture") == depths | {"free": {"threads": 3}}
    assert deciding(Outer(), "sound") == deciding(Outer())
    assert deciding(Outer(newer=2.0))["newer"] == 2.0
    assert digest_of({"x": [Outer()]}) == digest_of({"x": [Outer(one=Inner(threads=9))]})
    assert digest_of(Outer()) != digest_of(Outer(one=Inner(depth=9)))


@pytest.mark.parametrize("nothing", ["", " "])
def test_a_reason_is_needed(nothing: str) -> None:
    with pytest.raises(ValueError, match="says why"):
        harmless(nothing)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation names, at any depth of tuples, unions and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


def fields_of(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field reachable from a model, by its dotted name."""
    for name, field in model.model_fields.items():
        yield above + name, field
        for inner in models_in(field.annotation):
            yield from fields_of(inner, f"{above}{name}.")


ROLES = ("pretrain", "captioner", "filter", "retrieval", "vqa")
# Fields that decide nothing at all, or not some result. Who adds one shows here that it was meant.
TRAINING = {
    "loader_threads", "prefetch", "cache_decoded_mb", "cache_dir", "cache_gb", "checkpointed_layers", "log_every",
    "checkpoint.every_steps", "checkpoint.keep", "checkpoint.keep_best", "deepspeed.shared_memory",
    "launch.threads", "launch.hostfile", "launch.node_rank", "launch.master", "launch.timeout_minutes",
    "launch.grace_seconds",
}  # fmt: skip
NEVER = {
    "store", "tracking", "tokenizer.vocab_file", "model.vision.checkpoint_layers",
    *(f"{role}.{name}" for role in ROLES for name in TRAINING),
    *(f"capfilt.{name}" for name in ("batch_size", "guard", "engine", "workers", "threads", "read_threads", "retries",
      "threshold_of", "endpoint")),
    "capfilt.calibration.drift", "evaluation.caption_batch",
    *(f"evaluation.retrieval.{name}" for name in ("image_batch", "text_batch", "pair_batch", "resident_images")),
}  # fmt: skip
NOT_ALWAYS = {
    CHECKPOINT: {f"{role}.launch.{name}" for role in ROLES for name in ("processes", "nodes")},
    OUTPUT: {"capfilt.target_precision", "capfilt.calibration"},
    CALIBRATION: {
        "capfilt.seed", "capfilt.decoding", "capfilt.captions_per_image", "capfilt.policy", "capfilt.text",
        "capfilt.coin", "capfilt.max_pixels", "capfilt.min_side", "capfilt.limit",
    },
    MEASUREMENT: {"evaluation.gate", "evaluation.intervals", "evaluation.base_models"},
}  # fmt: skip
NEWER = {
    *(f"capfilt.{name}" for name in ("calibrated", "weights", "score", "keep", "weigh", "check_captions", "cascade")),
    "capfilt.text_filters",
    *(f"{role}.optim.{name}" for role in ROLES for name in ("lr_vision", "lr_text", "layer_decay", "freeze")),
}  # fmt: skip
NEWER |= {f"{role}.max_answer_tokens" for role in ROLES} | {"tasks", "retrieval", "vqa", "answering"}
NEWER |= {"data.questions"}


def test_every_setting_decides_or_says_why_not() -> None:
    found: dict[str, set[str]] = {}
    fields = dict(fields_of(BootstrapConfig))
    assert len(fields) > 250 and "pretrain.launch.threads" in fields and "evaluation.gate.floors" in fields
    for name, field in fields.items():
        assert not field.exclude, f"{name}: left out of what is dumped, it says nothing: mark it harmless"
        if (mark := why_harmless(field)) is None:
            continue
        assert len(mark.why.split()) > 2, f"{name}: a reason, please"
        always = mark.covers("no value of any field", mark.to)
        found.setdefault((mark.to or "never") if always else "newer", set()).add(name)
    assert found == {"never": NEVER, "newer": NEWER, **NOT_ALWAYS}


class Probe(BootstrapContext):
    """Tells the digest of each stage that would be run."""

    def run(self, stage: Stage[Any]) -> Any:
        self.digests[stage.kind] = stage.digest

    @property
    def digests(self) -> dict[str, str]:
        return self.__dict__.setdefault("_digests", {})


@pytest.fixture
def digests(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Digests of all stages that a config decides, by kind; of a plan, a checkpoint and the bootstrap too."""
    folder = tmp_path / "vit"

    def of(*overrides: str) -> dict[str, str]:
        given = [f"store={tmp_path / 'store'}", "capfilt.precision=fp32", "capfilt.calibrated=null", *overrides]
        config = load_config(None, given)
        probe = Probe(config, open_store(config.store), Tracker(), folder)
        pretrain(probe, 0, [(DATA, 1)], TOKENIZER, None)
        finetune(probe, 0, "captioner", BASE, DATA)
        finetune(probe, 0, "filter", BASE, DATA)
        calibrate(probe, 0, FILTER, DATA)
        regenerate(probe, 1, DATA, CAPTIONER, FILTER, CALIBRATED)
        measure(probe, "round-0/evaluate", CAPTIONER, FILTER, DATA)
        assess_base(probe, 0, BASE, DATA)
        plan = Plan(WebInput("/w", "w", ()), CAPTIONER, FILTER, config.captioning())
        spec = TrainSpec(
            objective="pretrain", label="x", config=config.pretrain, datasets=(DatasetUse(ref=DATA),),
            model=config.model, tokenizer="t", store="/s",
        )  # fmt: skip
        return probe.digests | {
            "plan": plan.fingerprint, "checkpoint": spec.fingerprint, "bootstrap": config.bootstrap_id
        }  # fmt: skip

    return of


CHANGES = {
    "pretrain.log_every=7": "",
    "pretrain.loader_threads=3": "",
    "pretrain.prefetch=9": "",
    "pretrain.cache_decoded_mb=7": "",
    "pretrain.cache_dir=/elsewhere": "",
    "pretrain.cache_gb=7": "",
    "pretrain.launch.threads=3": "",
    "pretrain.launch.master=a:1": "",
    "pretrain.launch.timeout_minutes=7": "",
    "pretrain.checkpoint.every_steps=7": "",
    "pretrain.checkpoint.keep=7": "",
    "pretrain.checkpoint.keep_best=false": "",
    "pretrain.checkpointed_layers=true": "",
    "model.vision.checkpoint_layers=1": "",
    "captioner.log_every=7": "",
    "filter.checkpoint.every_steps=7": "",
    "capfilt.batch_size=3": "",
    "capfilt.threads=3": "",
    "capfilt.read_threads=3": "",
    "capfilt.workers=3": "",
    "capfilt.engine=ray": "",
    "capfilt.guard.min_captions=3": "",
    "capfilt.calibration.drift=0.3": "",
    "evaluation.caption_batch=3": "",
    "evaluation.retrieval.pair_batch=3": "",
    "tracking.enabled=false": "",
    "pretrain.launch.processes=2": "pretrain bootstrap",
    "pretrain.launch.nodes=2": "pretrain bootstrap",
    "pretrain.batch_size=32": "pretrain checkpoint bootstrap",
    "pretrain.optim.lr_vision=0.5": "pretrain checkpoint bootstrap",
    "pretrain.shuffle_shards=3": "pretrain checkpoint bootstrap",
    "model.momentum=0.9": "pretrain checkpoint bootstrap",
    "captioner.optim.lr=1e-4": "finetune-captioner bootstrap",
    "filter.seed=5": "finetune-filter bootstrap",
    "capfilt.seed=5": "capfilt plan bootstrap",
    "capfilt.decoding.top_p=0.6": "capfilt plan bootstrap",
    "capfilt.text=best": "capfilt plan bootstrap",
    "capfilt.score=both": "capfilt calibrate plan bootstrap",
    "capfilt.threshold=0.7": "capfilt calibrate plan bootstrap",
    "capfilt.calibrated=both": "capfilt calibrate plan bootstrap",
    "capfilt.max_words=20": "capfilt calibrate plan bootstrap",
    "capfilt.precision=bf16": "capfilt calibrate plan bootstrap",
    "capfilt.calibration.images=9": "calibrate bootstrap",
    "evaluation.gate.max_loss=0.5": "bootstrap",
    "evaluation.intervals.level=0.9": "bootstrap",
    "evaluation.base_models=false": "evaluate-base bootstrap",
    "evaluation.decoding.beams=2": "evaluate bootstrap",
    "evaluation.retrieval.top_k=17": "evaluate evaluate-base bootstrap",
    "evaluation.limit=7": "evaluate evaluate-base bootstrap",
    "tasks=[captioning,retrieval,vqa]": "bootstrap",
    "vqa.steps=99": "",  # nobody asks
    "answering.top_k=9": "",
    "retrieval={}": "bootstrap",
}


def test_retrieval_with_the_filters_settings_is_the_filters_stage(tmp_path: Path) -> None:
    """It is found done; with other settings it is another, and the filter's stays what it was."""

    def stages(*overrides: str) -> tuple[str, str]:
        config = load_config(None, [f"store={tmp_path}", *overrides])
        probe = Probe(config, open_store(config.store), Tracker(), tmp_path)
        found = []
        for role in ("filter", "retrieval"):
            finetune(probe, 0, role, BASE, DATA)  # type: ignore[arg-type]
            found.append(probe.digests["finetune-filter"])
        return found[0], found[1]

    filter, same = stages("retrieval={}", "retrieval.log_every=3")
    assert same == filter
    for change in ("retrieval.steps=99", "retrieval.negative_temperature=null", "retrieval.seed=4"):
        again, other = stages(change)
        assert again == filter != other, change


def test_what_is_found_out_by_a_probe_is_found_done_on_other_machines(
    digests: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    """`auto` in a store where it was bf16 is bf16, whatever is fast here."""
    store = open_store(str(tmp_path / "store"))
    for work, key in PRECISION_KEYS.items():
        store.write(key, json.dumps({work: "bf16"}).encode())
    places = [
        *(f"{role}.precision" for role in ROLES if role != "retrieval"),
        "evaluation.precision",
        "capfilt.precision",
    ]
    begun, went_on = (digests(*(f"{place}={name}" for place in places)) for name in ("bf16", "auto"))
    stages = begun.keys() - {"plan", "checkpoint", "bootstrap"}
    assert len(stages) == 7
    assert {name: went_on[name] for name in stages} == {name: begun[name] for name in stages}
    fp32 = digests()
    assert all(fp32[name] != begun[name] for name in stages)


def test_digests_change_with_what_decides_and_with_nothing_else(digests: Callable[..., dict[str, str]]) -> None:
    before = digests()
    assert len(before) == 10
    for change, expected in CHANGES.items():
        after = digests(change)
        changed = {name for name in before if after.get(name) != before[name]}
        assert changed == set(expected.split()), change


def test_weights_are_part_of_the_plan_and_a_choice_not_made_is_not() -> None:
    config = CapfiltConfig()
    assert not {"calibrated", "weights"} & config.effective().keys()
    weighed = CapfiltConfig(calibrated="both", weights={"itm": 1.0, "itc": 2.0, "bias": 0.5})
    assert weighed.effective()["weights"] == {"itm": 1.0, "itc": 2.0, "bias": 0.5}
    fingerprints = {
        Plan(WebInput("/w", "w", ()), CAPTIONER, FILTER, one).fingerprint
        for one in (config, weighed, weighed.model_copy(update={"weights": ScoreWeights(itm=1.0, itc=2.0, bias=0.4)}))
    }
    assert len(fingerprints) == 3


def test_a_start_is_another_for_another_network_but_not_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.model.checkpoints.publishing.reference_model", lambda uri, role: BASE)

    def digest(*overrides: str) -> str:
        config = load_config(None, [f"store={tmp_path}", "encoders.vision=/vit", *overrides])
        probe = Probe(config, open_store(config.store), Tracker(), tmp_path)
        start_model(probe, TOKENIZER)
        return probe.digests["encoders"]

    assert digest("model.vision.checkpoint_layers=1") == digest() != digest("model.vision.depth=1")


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_settings_without_a_mark_all_count() -> None:
    """Whatever is changed in a config shows, unless the field says otherwise: nobody keeps a list."""
    for config in (CapfiltConfig(), TrainConfig(steps=1), SampleWorldConfig()):
        for name, field in type(config).model_fields.items():
            changed = config.model_copy(update={name: "something else"})
            mark = why_harmless(field)
            counts = mark is None or not mark.covers("something else", None)
            assert (digest_of(changed) != digest_of(config)) == counts, name


def test_what_a_result_was_made_with_is_told_without_names_of_hosts() -> None:
    told = surroundings()
    assert told["libraries"]["torch"] and told["cores"] >= 1 and told["threads"] >= 1 and told["gpus"] is not None
    assert not {"host", "hostname", "user"} & told.keys()
