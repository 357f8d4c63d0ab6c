"""CapFilt on a real S3 server, on shards that are far away, by two runs at once, and over many shards."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.common.contracts import CapfiltResult, ModelRef
from components.common.errors import StorageError
from components.common.storage import open_store
from components.data.manifest import load_manifest
from components.data.versions.verify import verify
from components.regeneration.config import CapfiltConfig
from components.regeneration.run import run_capfilt
from tests.helpers.s3 import BUCKET, S3Server, serve_s3
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import write_web

Models = tuple[ModelRef, ModelRef]
CONFIG = CapfiltConfig(batch_size=2, threads=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serve_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("components.common.storage.s3_client._clients", {})
    return server


def run(web: str, models: Models, root: str, config: CapfiltConfig = CONFIG) -> CapfiltResult:
    return run_capfilt(web, *models, config, store=open_store(root), name="out")


def on_s3(folder: Path, prefix: str) -> str:
    """The files of a folder copied to S3; their URI there."""
    store = open_store(f"s3://{BUCKET}/{prefix}")
    for path in folder.rglob("*"):
        if path.is_file():
            store.upload(path, str(path.relative_to(folder)))
    return store.uri


def test_from_s3_to_s3_with_models_on_s3(tmp_path: Path, models: Models, s3: S3Server) -> None:
    web = on_s3(write_web(tmp_path / "web"), "web")
    far = [ref.model_copy(update={"uri": on_s3(Path(ref.uri), f"models/{ref.role}")}) for ref in models]
    result = run(web, (far[0], far[1]), f"s3://{BUCKET}/out")
    assert result.dataset.uri.startswith("s3://")
    assert load_manifest(result.dataset.uri).totals.samples == 15
    assert verify(result.dataset.uri).problems == ()
    assert run(web, (far[0], far[1]), f"s3://{BUCKET}/out").dataset == result.dataset


def test_a_folder_and_s3_hold_the_same_version(tmp_path: Path, models: Models, s3: S3Server) -> None:
    web = str(write_web(tmp_path / "web"))
    near, far = run(web, models, str(tmp_path / "out")), run(web, models, f"s3://{BUCKET}/same")
    assert near.dataset.digest == far.dataset.digest


def test_wrong_keys_stop_the_run_with_the_remedy(
    tmp_path: Path, models: Models, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = str(write_web(tmp_path / "web"))
    for name, value in s3.environment(secret="wrong").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("components.common.storage.s3_client._clients", {})
    with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY"):
        run(web, models, f"s3://{BUCKET}/refused")


def test_two_runs_at_the_same_place_make_one_dataset(tmp_path: Path, models: Models) -> None:
    web = str(write_web(tmp_path / "web", shards=6))
    alone = run(web, models, str(tmp_path / "alone"))
    results: list[CapfiltResult] = []
    threads = [
        threading.Thread(target=lambda: results.append(run(web, models, str(tmp_path / "shared")))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.dataset.digest for result in results] == [alone.dataset.digest] * 2
    assert verify(results[0].dataset.uri).problems == ()


MEASURE = """
import resource, sys
from components.regeneration.config import CapfiltConfig
from components.regeneration.run import run_capfilt
from components.common.contracts import ModelRef
from components.common.storage import open_store
web, out, *refs = sys.argv[1:]
refs = [ModelRef.model_validate_json(ref) for ref in refs]
run_capfilt(web, *refs, CapfiltConfig(batch_size=8, threads=1), store=open_store(out), name="out")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(web: Path, out: Path, models: Models) -> int:
    """Peak memory of a run in a process of its own."""
    command = [sys.executable, "-c", MEASURE, str(web), str(out), *(ref.model_dump_json() for ref in models)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, check=True, text=True)
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_memory_is_flat(tmp_path: Path, models: Models) -> None:
    few, many = (write_web(tmp_path / f"web-{count}", shards=count, samples=24) for count in (2, 40))
    assert peak_kib(many, tmp_path / "b", models) < 1.05 * peak_kib(few, tmp_path / "a", models)
