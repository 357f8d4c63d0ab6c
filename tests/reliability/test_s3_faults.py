"""A real S3 server that fails, through a proxy: CapFilt heals what can heal, and stops clearly at what cannot."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capfilt.cli.main import app
from components.common.contracts import CapfiltResult, DatasetRef, ModelRef
from components.common.errors import StorageError
from components.common.storage import open_store, s3_client
from components.data.manifest import read_commit
from components.regeneration.config import CapfiltConfig
from components.regeneration.run import run_capfilt
from tests.helpers.faults import HEALING, FaultProxy, always, at, at_rate, none, serve_faults
from tests.helpers.s3 import BUCKET, S3Server, serve_s3
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import write_web

Models = tuple[ModelRef, ModelRef]
SHARDS = 8
CONFIG = CapfiltConfig(batch_size=2, threads=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serve_s3(tmp_path_factory.mktemp("s3")) as running:
        write_web(running.folder / BUCKET / "web", shards=SHARDS, samples=3)
        yield running


@pytest.fixture
def proxy(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The only way to the server."""
    with serve_faults(server.endpoint) as running:
        for name, value in S3Server(running.endpoint, server.folder).environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(s3_client, "_clients", {})
        monkeypatch.setenv("CAPFILT_S3_PATIENCE", "0")  # requests are counted here: see test_s3_outage for waiting
        yield running
        for client in s3_client._clients.values():
            client.close()


def run(models: Models, prefix: str, config: CapfiltConfig = CONFIG) -> CapfiltResult:
    out = open_store(f"s3://{BUCKET}/{prefix}")
    return run_capfilt(f"s3://{BUCKET}/web", *models, config, store=out, out=out, name="out")


def committed(prefix: str) -> int:
    out = open_store(f"s3://{BUCKET}/{prefix}")
    return sum(read_commit(out, f"{index:05d}") is not None for index in range(SHARDS))


@pytest.fixture
def whole(proxy: FaultProxy, models: Models) -> DatasetRef:
    """The undisturbed dataset."""
    return run(models, "whole").dataset


def test_faults_cost_time_only_and_few_requests(proxy: FaultProxy, models: Models, whole: DatasetRef) -> None:
    proxy.reset(none)
    run(models, "calm")
    calm = proxy.requests
    proxy.reset(at_rate(0.1, seed=3))
    assert run(models, "stormy").dataset.digest == whole.digest
    assert proxy.injected.total() >= 0.05 * calm, "too few faults for this test to mean anything"
    assert len(proxy.injected) >= 4, proxy.injected
    assert proxy.requests <= 1.5 * calm, f"{proxy.injected}: {proxy.requests} requests instead of {calm}"


@pytest.mark.parametrize("kind", [*HEALING, "short"])
def test_every_fault_heals(proxy: FaultProxy, tmp_path: Path, kind: str) -> None:
    """Each kind at the first request of every call of the store."""
    store = open_store(f"s3://{BUCKET}/calls-{kind}")
    data = bytes(range(256)) * 40
    (tmp_path / "up").write_bytes(data)
    calls = {
        "write": lambda: store.write("a", data),
        "write once": lambda: store.write("b", data, if_absent=True),
        "upload": lambda: store.upload(tmp_path / "up", "c"),
        "read": lambda: store.read("a"),
        "read a part": lambda: store.read("a", start=3, stop=4000),
        "download": lambda: store.download("c", tmp_path / "down"),
        "info": lambda: store.info("c"),
        "list": lambda: [one.key for one in store.list()],
    }
    results = {}
    for name, call in calls.items():
        # An answer that is shorter than the object, and says so, is told where the size is known: of a download's HEAD.
        proxy.reset(at(1, kind) if kind == "short" and name == "download" else at(0, kind) if kind != "short" else none)
        results[name] = call()
        assert proxy.injected.total() == (kind != "short" or name == "download"), name
        assert proxy.requests <= 6, name
    assert (results["read"], results["read a part"], results["list"]) == (data, data[3:4000], ["a", "b", "c"])
    assert (tmp_path / "down").read_bytes() == data
    proxy.reset(none)
    assert store.read("b") == store.read("c") == data


@pytest.mark.parametrize(
    ("kind", "remedy"), [("expired", "credentials have expired: renew them"), ("denied", "may not do this: check")]
)
def test_a_refusal_is_told_with_its_remedy_by_every_call(
    proxy: FaultProxy, tmp_path: Path, kind: str, remedy: str
) -> None:
    """By `info` too, whose HEAD has no body that could say why, and by `upload`, whose error comes wrapped."""
    store = open_store(f"s3://{BUCKET}/web")
    (tmp_path / "up").write_bytes(b"data")
    proxy.reset(always(kind))
    for call in (
        lambda: store.info("00000.tar"),
        lambda: store.read("00000.tar"),
        lambda: store.download("00000.tar", tmp_path / "down"),
        lambda: store.upload(tmp_path / "up", "new"),
        lambda: store.write("new", b"data"),
        lambda: list(store.list()),
    ):
        proxy.reset(always(kind))
        with pytest.raises(StorageError, match=rf"cannot \w+ s3://{BUCKET}/web.*{remedy}") as error:
            call()
        assert not error.value.retryable and proxy.requests <= 3  # after a HEAD's 400 botocore asks for the region
    assert not (tmp_path / "down").exists()


@pytest.mark.parametrize("kind", ["error", "reset", "cut"])
def test_a_store_that_always_fails_is_given_up(
    proxy: FaultProxy, models: Models, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr(s3_client, "_clients", {})
    proxy.reset(always(kind))
    with pytest.raises(StorageError, match=f"s3://{BUCKET}/web") as error:
        run(models, f"never-{kind}")
    assert error.value.retryable
    assert proxy.requests <= 5 * 2
    proxy.reset(always(kind, methods=["PUT"]))
    with pytest.raises(StorageError, match=f"s3://{BUCKET}/never-{kind}"):
        run(models, f"never-{kind}")
    assert proxy.injected.total() <= 2


@pytest.mark.parametrize(
    ("kind", "remedy"), [("expired", "credentials have expired: renew them"), ("denied", "may not do this: check")]
)
def test_refused_midway_keeps_what_is_committed_and_goes_on_later(
    proxy: FaultProxy, models: Models, whole: DatasetRef, kind: str, remedy: str
) -> None:
    proxy.reset(none)
    run(models, f"counted-{kind}")
    proxy.reset(always(kind, after=proxy.requests * 2 // 3))
    with pytest.raises(StorageError, match=remedy) as error:
        run(models, kind)
    assert not error.value.retryable
    assert proxy.injected.total() <= 6, "refusals are not to be tried again"
    proxy.reset(none)
    assert 0 < committed(kind) < SHARDS
    assert run(models, kind).dataset.digest == whole.digest


def test_a_failing_upload_is_tried_so_often_and_no_more(
    proxy: FaultProxy, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr(s3_client, "_clients", {})
    proxy.reset(always("slow_down", methods=["PUT"], after=22))
    with pytest.raises(StorageError, match="SlowDown") as error:
        run(models, "slow", CONFIG.model_copy(update={"retries": 1}))
    assert error.value.retryable
    assert 4 <= proxy.injected.total() <= 3 * 4, "two requests, twice, for each of three shards that may be in hand"


def test_a_read_only_bucket_is_refused_before_any_work(proxy: FaultProxy, models: Models) -> None:
    proxy.reset(always("denied", methods=["PUT", "POST", "DELETE"]))
    with pytest.raises(StorageError, match=f"cannot write s3://{BUCKET}/closed/.capfilt-probe.*may not do this"):
        run(models, "closed")
    assert proxy.injected.total() == 1
    proxy.reset(none)
    run(models, "begun")
    open_store(f"s3://{BUCKET}/begun").delete("manifest.json")
    proxy.reset(always("denied", methods=["PUT", "POST", "DELETE"]))
    options = ["--captioner", "/nowhere", "--filter", models[1].uri, "--out", f"s3://{BUCKET}/begun"]
    refused = CliRunner().invoke(app, ["regenerate", "--web", f"s3://{BUCKET}/web", *options])
    assert (refused.exit_code, "may not do this" in refused.stderr) == (1, True)
