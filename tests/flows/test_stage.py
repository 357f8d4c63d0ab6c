"""What makes a stage be found, worked, tried again or refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect import flow

from components.common.contracts import DatasetRef, EvalReport, ModelRef, RawData
from components.common.errors import DataError, StorageError
from components.common.lock import BusyError, LockLostError
from components.common.storage import open_store
from components.common.tracking import Tracker
from components.config import BootstrapConfig, load_config
from flows import stages
from flows.course import read_note
from flows.stages import BootstrapContext, Stage, StageContext, open_bootstrap
from tests.helpers.tiny import overrides

Work = Callable[[StageContext], EvalReport]


@pytest.fixture
def config(tmp_path: Path) -> BootstrapConfig:
    return load_config(None, overrides(store=str(tmp_path / "root"), tracking__enabled="false"))


@pytest.fixture
def context(config: BootstrapConfig, tmp_path: Path) -> BootstrapContext:
    return BootstrapContext(config, open_store(config.store), Tracker(), tmp_path / "scratch")


def _run(context: BootstrapContext, work: Work, *, revision: int = 1, inputs: str = "a") -> EvalReport:
    stage = Stage("round-0/measure", "measure", revision, {"inputs": inputs}, EvalReport, work)

    @flow(name="one-stage")
    def one_stage() -> EvalReport:
        return context.run(stage)

    return one_stage()


def test_a_record_names_places_in_the_store_relative_to_it(context: BootstrapContext, tmp_path: Path) -> None:
    """A store that was moved, its original gone, finds its stages done where it is now."""
    root = Path(context.store.uri)
    inside, outside = root / "details.json", tmp_path / "elsewhere.json"
    for path in (inside, outside):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    reports = {}
    for path in (inside, outside):
        report = EvalReport(round=0, metrics={}, uri=str(path))
        reports[path.name] = _run(context, lambda stage, report=report: report, inputs=path.name)
    assert [report.uri for report in reports.values()] == [str(inside), str(outside)]
    for record in root.glob("stages/*/*.json"):
        assert str(root) not in record.read_text()
    moved = tmp_path / "moved"
    root.rename(moved)
    context.store = open_store(str(moved))

    def refuse(stage: StageContext) -> EvalReport:
        raise AssertionError("it was done")

    assert _run(context, refuse, inputs="details.json").uri == str(moved / "details.json")
    assert _run(context, refuse, inputs="elsewhere.json").uri == str(outside)


class _Counted:
    def __init__(self, *errors: Exception) -> None:
        self.calls, self.errors = 0, list(errors)

    def __call__(self, stage: StageContext) -> EvalReport:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        (stage.work_dir / "half-done").write_text("x")
        return EvalReport(round=0, metrics={"eval/x": float(self.calls)})


def test_a_finished_stage_is_found(context: BootstrapContext) -> None:
    work = _Counted()
    assert _run(context, work) == _run(context, work)
    assert work.calls == 1
    assert [report.cached for report in context.reports] == [False, True]
    assert not list((context.scratch / "work").iterdir())


@pytest.mark.parametrize("change", [{"revision": 2}, {"inputs": "b"}])
def test_another_revision_or_input_is_another_stage(context: BootstrapContext, change: dict[str, object]) -> None:
    work = _Counted()
    _run(context, work)
    _run(context, work, **change)  # type: ignore[arg-type]
    assert work.calls == 2


def test_an_unreadable_record_is_not_trusted(context: BootstrapContext) -> None:
    work = _Counted()
    _run(context, work)
    (key,) = [item.key for item in context.store.list("stages/")]
    context.store.write(key, b'{"result": {"rou')
    _run(context, work)
    assert work.calls == 2


def test_outputs_that_are_gone_are_made_again(context: BootstrapContext) -> None:
    calls = []

    def work(stage: StageContext) -> EvalReport:
        calls.append(1)
        context.store.write("details.json", b"{}")
        return EvalReport(round=0, metrics={}, uri=f"{context.store.uri}/details.json")

    _run(context, work)
    _run(context, work)
    assert len(calls) == 1
    context.store.delete("details.json")
    _run(context, work)
    assert len(calls) == 2


def test_what_shows_outputs_to_be_whole() -> None:
    dataset = DatasetRef(name="web", uri="s3://b/web", digest="d", images=1, pairs=1)
    model = ModelRef(role="base", uri="/m", digest="d")
    raw = RawData(train=dataset, val=dataset, test=dataset, web=dataset, truth_uri="/truth.parquet")
    assert list(stages._outputs(dataset)) == ["s3://b/web/manifest.json"]
    assert list(stages._outputs(model)) == ["/m/model.json"]
    assert list(stages._outputs(raw)) == ["s3://b/web/manifest.json"] * 4 + ["/truth.parquet"]


def test_what_can_heal_is_tried_again(context: BootstrapContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "RETRY_SECONDS", [0.0, 0.0])
    work = _Counted(StorageError("slow down", retryable=True))
    _run(context, work)
    assert work.calls == 2


@pytest.mark.parametrize("error", [StorageError("denied"), DataError("bad"), RuntimeError("defect")])
def test_what_cannot_heal_is_not(context: BootstrapContext, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(stages, "RETRY_SECONDS", [0.0, 0.0])
    work = _Counted(error, error, error)
    with pytest.raises(type(error), match=str(error)):
        _run(context, work)
    assert work.calls == 1
    assert not context.reports


def test_a_failed_stage_keeps_its_folder_and_goes_on_in_it(context: BootstrapContext) -> None:
    seen: list[list[str]] = []

    def work(stage: StageContext) -> EvalReport:
        seen.append([path.name for path in stage.work_dir.iterdir()])
        (stage.work_dir / "checkpoint").write_text("step 3")
        if len(seen) == 1:
            raise DataError("killed")
        return EvalReport(round=0, metrics={})

    with pytest.raises(DataError):
        _run(context, work)
    _run(context, work)
    assert seen == [[], ["checkpoint"]]


def test_the_record_says_what_was_done(context: BootstrapContext) -> None:
    _run(context, _Counted())
    (item,) = context.store.list("stages/measure/")
    record = json.loads(context.store.read(item.key))
    assert record["stage"] == "round-0/measure"
    assert record["depends"] == {"inputs": "a"}
    assert record["result"]["metrics"] == {"eval/x": 1.0}
    assert record["made"]["libraries"] and record["made"]["cores"] >= 1


def test_records_move_with_their_store(context: BootstrapContext, tmp_path: Path) -> None:
    def work(stage: StageContext) -> EvalReport:
        context.store.write("details.json", b"{}")
        return EvalReport(round=0, metrics={}, uri=f"{context.store.uri}/details.json")

    _run(context, work)
    (item,) = context.store.list("stages/measure/")
    assert json.loads(context.store.read(item.key))["result"]["uri"] == "./details.json"
    moved = (tmp_path / "root").rename(tmp_path / "moved")
    context.store = open_store(str(moved))
    assert _run(context, work).uri == f"{context.store.uri}/details.json"
    assert context.reports[-1].cached and not (tmp_path / "root").exists()


def test_a_lost_lock_stops_a_stage_before_it_is_recorded(config: BootstrapConfig) -> None:
    """Another machine took the store over while this one stood still: its result must not be found done."""
    work = _Counted()

    def robbed(stage: StageContext) -> EvalReport:
        store = open_store(config.store)
        for one in list(store.list("locks/")):
            store.delete(one.key)
        return work(stage)

    with pytest.raises(LockLostError, match="Nothing more is committed"), open_bootstrap(config) as context:
        _run(context, robbed)
    assert work.calls == 1
    assert list(open_store(config.store).list("stages/")) == []


def test_the_note_of_a_run_says_which_stage_failed_and_what_was_overcome(
    config: BootstrapConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "RETRY_SECONDS", [0, 0])
    with open_bootstrap(config) as context:
        _run(context, _Counted(StorageError("the store was away", retryable=True)))
        note = read_note(context.store)
        assert note is not None and note.error is not None
        assert (note.state, note.name, note.bootstrap) == ("running", config.name, config.bootstrap_id)
    ended = read_note(context.store)
    assert ended is not None and ended.error is not None
    assert (ended.state, ended.stages_done, ended.stage) == ("ended", 1, None)
    assert (ended.error.stage, ended.error.message) == ("round-0/measure", "the store was away")
    with pytest.raises(DataError), open_bootstrap(config) as context:
        _run(context, _Counted(DataError("no image can be read")), inputs="b")
    failed = read_note(context.store)
    assert failed is not None and failed.error is not None
    assert (failed.state, failed.stage, failed.error.message) == ("failed", "round-0/measure", "no image can be read")


def test_one_bench_per_store(config: BootstrapConfig) -> None:
    with open_bootstrap(config), pytest.raises(BusyError, match="works here since"), open_bootstrap(config):
        pytest.fail("two benches on one store")
    with open_bootstrap(config):
        pass
