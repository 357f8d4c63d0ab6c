"""The whole loop, tiny: through the command, Prefect, MLflow, DeepSpeed and a real S3 server; killed, and gone on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import ViTConfig, ViTModel

from components.common.metrics import find_metric
from components.common.storage import open_store
from components.data.manifest import load_manifest
from flows.status import status_of
from tests.helpers.s3 import SECRET_KEY, serve_s3
from tests.helpers.tiny import options

pytestmark = pytest.mark.timeout(900)
WATCHED = (
    "loss", "loss_itc", "loss_itm", "loss_lm", "nll_lm", "itm_accuracy", "itm_negatives", "temperature", "queue_fill",
    "grad_norm", "lr", "epoch", "samples_per_second", "seconds_per_step", "data_wait_share",
)  # fmt: skip


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "capfilt.cli.main", "run", "--json", *arguments]


def _environment(more: dict[str, str] | None = None) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    drop = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME")
    return {name: value for name, value in os.environ.items() if name not in drop} | {"PYTHONPATH": root} | (more or {})


def _run(
    arguments: list[str], folder: Path, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        _command(*arguments), cwd=folder, env=_environment(environment), capture_output=True, text=True, check=False
    )


def _random_vit(folder: Path) -> Path:
    """As wide as the tiny bootstrap's, for larger images."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    ViTModel(ViTConfig(**sizes, image_size=64, patch_size=16, layer_norm_eps=1e-6)).save_pretrained(folder)
    return folder


def _survivors(folder: Path) -> list[str]:
    """Processes that mention a folder: trainings and servers of a run there."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = " ".join(process.info["cmdline"] or []) + str((process.info["environ"] or {}).get("PREFECT_HOME"))
        if str(folder) in words and process.pid != os.getpid():
            found.append(words)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bootstrap")


@pytest.fixture(scope="module")
def finished(folder: Path) -> Any:
    with serve_s3(folder / "s3") as server:
        arguments = options(store=f"{server.uri}/root", encoders__vision=_random_vit(folder / "vit"))
        work = folder / "work"
        work.mkdir()
        refused = _run(arguments, work, server.environment(secret="wrong"))
        start = time.monotonic()
        first = _run(arguments, work, server.environment())
        whole = time.monotonic() - start
        assert first.returncode == 0, first.stderr
        start = time.monotonic()
        second = _run(arguments, work, server.environment())
        seconds = time.monotonic() - start
        assert second.returncode == 0, second.stderr
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment().items():
                patch.setenv(name, value)
            page = folder / "again.html"
            again = subprocess.run(
                [*_command()[:3], "report", f"{server.uri}/root", "--out", str(page)],
                cwd=work, env=_environment(server.environment()), capture_output=True, text=True, check=False,
            )  # fmt: skip
            yield {
                "again": again,
                "status": status_of(f"{server.uri}/root"),
                "page": page,
                "refused": refused,
                "first": json.loads(first.stdout),
                "second": json.loads(second.stdout),
                "share": seconds / whole,
                "work": work,
                "stderr": first.stderr + second.stderr,
            }


def test_wrong_keys_are_refused_before_any_work(finished: dict[str, Any]) -> None:
    refused = finished["refused"]
    assert refused.returncode == 1
    assert "AWS_SECRET_ACCESS_KEY" in refused.stderr
    assert json.loads(refused.stdout)["kind"] == "StorageError"
    assert "round-0" not in refused.stderr


def test_the_status_of_its_store(finished: dict[str, Any]) -> None:
    found, document = finished["status"], finished["second"]
    assert found.standing == "ended"
    assert (found.heartbeat, found.holder, found.free_bytes) == (None, None, None)
    assert found.note.stages_done == len(document["stages"])
    assert found.note.error is None
    assert found.ended.report == document["report"]


def test_the_document(finished: dict[str, Any]) -> None:
    document = finished["first"]
    assert [one["round"] for one in document["rounds"]] == [0, 1]
    for one in document["rounds"]:
        assert {"eval/retrieval/mean_recall", "eval/caption/cider", "eval/caption/bleu_4"} <= one["metrics"].keys()
        assert {"calibration/threshold", "calibration/purity", "calibration/yield"} <= one["metrics"].keys()
        assert one["metrics"]["calibration/threshold"] == 0.2
        assert {"base/mean_recall", "base/text_recall_at_1", "calibration/error"} <= one["metrics"].keys()
        low, high = (one["uncertainty"]["values"]["eval/caption/cider"][end] for end in ("low", "high"))
        assert low <= one["metrics"]["eval/caption/cider"] <= high
    assert document["rounds"][0]["uncertainty"]["changes"] == {}
    changes = document["rounds"][1]["uncertainty"]["changes"]
    assert {"eval/retrieval/mean_recall", "base/mean_recall"} <= changes.keys()
    assert changes["base/mean_recall"]["after"] == pytest.approx(document["rounds"][1]["metrics"]["base/mean_recall"])
    (weighed,) = document["weighed"]
    assert (weighed["candidate"], weighed["against"]) == (1, "round 0")
    assert weighed["better"] is (document["champion"] == 1)
    assert [one["metric"] for one in weighed["comparisons"]] == ["eval/retrieval/mean_recall", "eval/caption/cider"]
    assert {"capfilt/noise_ratio_web", "capfilt/kept_pairs", "truth/web_true_before"} <= document["rounds"][1][
        "metrics"
    ].keys()
    assert {one["name"] for one in document["datasets"]} >= {"human-train", "human-test", "web", "web-capfilt-1"}
    assert [one["role"] for one in document["models"]] == ["base", "captioner", "filter"] * 2
    assert document["champion"] in (0, 1)


def test_the_given_image_encoder_is_made_a_start_once(finished: dict[str, Any]) -> None:
    stages = [one["stage"] for one in finished["first"]["stages"]]
    assert stages.count("start") == 1
    assert stages.index("start") < stages.index("round-0/pretrain")


def test_everything_lies_in_the_bucket(finished: dict[str, Any]) -> None:
    document = finished["first"]
    assert document["report"].startswith("s3://")
    for one in document["datasets"]:
        manifest = load_manifest(one["uri"])
        assert manifest.digest == one["digest"]
        assert all(not (shard.tar.uri.startswith("/")) for shard in manifest.shards)
    for one in document["models"]:
        assert open_store(one["uri"]).exists("model.json")
    folder, _, name = document["report"].rpartition("/")
    page = open_store(folder).read(name).decode()
    assert "<html" in page
    assert "data:image/webp" in page
    assert "another seed of the training varies besides" in page
    for number in (0, 1):
        assert f"Purity and yield of the filter of round {number} by threshold: purity" in page
    assert not list((finished["work"] / ".capfilt" / "work").iterdir())


def test_page_and_table_are_made_again_from_the_stored_result(finished: dict[str, Any]) -> None:
    again, document = finished["again"], finished["second"]
    assert again.returncode == 0, again.stderr
    folder, _, name = document["report"].rpartition("/")
    assert finished["page"].read_bytes() == open_store(folder).read(name)
    assert f"{document['rounds'][1]['metrics']['eval/caption/cider']:.4f}" in again.stdout
    assert "another seed of the training varies besides" in again.stdout
    for one in document["rounds"]:
        assert set(one["histories"]) == {"pretrain", "captioner", "filter"}


def test_every_logged_metric_is_in_the_catalogue(finished: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    document = finished["second"]
    client = MlflowClient(document["mlflow_uri"], registry_uri=document["mlflow_uri"])
    experiment = client.get_run(document["mlflow_run"]).info.experiment_id
    logged = {name for run in client.search_runs([experiment]) for name in run.data.metrics}
    logged |= {name for one in document["rounds"] for name in one["metrics"]}
    assert len(logged) > 60
    assert sorted(name for name in logged if find_metric(name) is None) == []


def test_the_second_time_everything_is_found(finished: dict[str, Any]) -> None:
    first, second = finished["first"], finished["second"]
    assert all(stage["cached"] for stage in second["stages"])
    assert not any(stage["cached"] for stage in first["stages"])
    assert second["rounds"] == first["rounds"]
    assert second["mlflow_run"] == first["mlflow_run"]
    assert finished["share"] < 0.8, "finding costs less than working, however slow the machine"


def test_mlflow_tells_rounds_apart(finished: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    document = finished["second"]
    client = MlflowClient(document["mlflow_uri"], registry_uri=document["mlflow_uri"])
    parent = client.get_run(document["mlflow_run"])
    runs = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    names = {run.info.run_name for run in runs}
    assert parent.info.status == "FINISHED"
    assert {f"round-{number}/{stage}" for number in (0, 1) for stage in ("pretrain", "captioner", "filter")} <= names
    assert {
        "round-0/evaluate-base",
        "round-1/evaluate-base",
        "round-0/evaluate",
        "round-1/evaluate",
        "round-0/calibrate",
        "round-1/capfilt",
    } <= names
    sides = client.search_runs(
        [parent.info.experiment_id], "tags.stage = 'round'", order_by=["attributes.start_time ASC"]
    )
    assert [run.info.run_name for run in sides] == [f"round-{k} of {parent.info.run_name}" for k in (0, 1)]
    for run, one in zip(sides, document["rounds"], strict=True):
        for name in ("eval/retrieval/mean_recall", "eval/caption/cider"):
            assert run.data.metrics[name] == round(one["metrics"][name], 4)
        sure = one["uncertainty"]
        bound = sure["values"]["eval/caption/cider"]["low"]
        assert run.data.metrics["interval/caption/cider/low"] == round(bound, 4)
        assert ("change/retrieval/mean_recall/high" in run.data.metrics) is (one["round"] == 1)
        assert run.data.tags["against round 0"] in (("clear", "mixed", "within noise") if one["round"] else ("–",))
        assert run.data.tags["champion"] == ("yes" if one["round"] == document["champion"] else "no")
        assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {
            "human-train",
            "human-test",
            one["web"]["name"],
        }
    assert document["mlflow_page"].startswith(f"#/experiments/{parent.info.experiment_id}/runs?")
    assert f"#/experiments/{parent.info.experiment_id}" in parent.data.tags["mlflow.note.content"]
    assert len(names) == len(runs)
    drawn = ("eval/retrieval/mean_recall", "base/mean_recall", "interval/base/mean_recall/low")
    for name in (*drawn, "calibration/threshold", "calibration/purity", "calibration/yield"):
        curve = client.get_metric_history(parent.info.run_id, name)
        assert sorted(point.step for point in curve) == [0, 1]  # run twice, and no point twice
    inputs = {entry.dataset.name for entry in parent.inputs.dataset_inputs}
    assert {"human-train", "human-test", "web", "web-capfilt-1"} <= inputs
    pretraining = next(run for run in runs if run.info.run_name == "round-1/pretrain")
    for name in WATCHED:
        assert client.get_metric_history(pretraining.info.run_id, f"train/{name}"), name
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} >= {
        "config.yaml",
        "report.html",
        "rounds.md",
        "manifests",
        "samples",
    }


def test_models_are_registered_with_aliases(finished: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    document = finished["second"]
    client = MlflowClient(document["mlflow_uri"], registry_uri=document["mlflow_uri"])
    winner = document["rounds"][document["champion"]]
    for role in ("base", "captioner", "filter"):
        champion = client.get_model_version_by_alias(f"sample-{role}", "champion")
        assert champion.tags["digest"] == winner[role]["digest"]
        assert len(client.search_model_versions(f"name='sample-{role}'")) == 2


def test_no_secret_is_written_down(finished: dict[str, Any]) -> None:
    assert SECRET_KEY not in finished["stderr"]
    for path in (finished["work"] / ".capfilt").rglob("*"):
        if path.is_file():
            assert SECRET_KEY.encode() not in path.read_bytes(), path


def test_nothing_is_left_running(finished: dict[str, Any]) -> None:
    assert _survivors(finished["work"] / ".capfilt") == []


def test_killed_in_the_middle_it_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    """SIGKILL of the whole tree: no exit handler runs. (That a resumed training ends equal: test_resume.py.)"""
    root = tmp_path / "root"
    arguments = options(store=str(root), rounds=0, pretrain__steps=80, pretrain__checkpoint__every_steps=10)
    process = subprocess.Popen(
        _command(*arguments), cwd=tmp_path, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _wait_for_checkpoint(root / "work", process)
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        one.send_signal(signal.SIGKILL)
    process.communicate()
    killed = status_of(str(root))
    assert killed.standing == "crashed"
    assert killed.note is not None and killed.note.stage == "round-0/pretrain"
    again = _run(arguments, tmp_path)
    assert again.returncode == 0, again.stderr
    assert status_of(str(root)).standing == "ended"
    assert "going on from" in again.stderr
    document = json.loads(again.stdout)
    found = {stage["stage"] for stage in document["stages"] if stage["cached"]}
    assert {"sample-world", "import/web", "tokenizer"} <= found
    assert "round-0/pretrain" not in found
    assert _survivors(tmp_path) == []


def _wait_for_checkpoint(work: Path, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(12_000):
        if process.poll() is not None:
            pytest.fail(f"ended before a checkpoint: {process.communicate()[1].decode()}")
        if list(work.glob("pretrain-*/checkpoints/[!.]*/complete.json")):
            return
        time.sleep(0.05)
    pytest.fail("no checkpoint within ten minutes")
