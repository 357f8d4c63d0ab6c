"""A captioner behind an OpenAI-compatible server that answers late, half, wrongly or not at all."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import capfilt
from capfilt import api
from capfilt.cli.main import app
from components.common.errors import CapfiltError, ConfigError, ModelError
from components.data.candidates import stored_candidates
from components.data.manifest import load_manifest
from components.data.versions.verify import verify
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import write_web

Reply = tuple[int, dict[str, str], bytes]
Play = Callable[[int, str], Reply | None]
FAST: dict[str, Any] = {"precision": "fp32", "read_threads": 1, "threshold": 0.0, "batch_size": 4}


def said(text: str, finish: str = "stop") -> Reply:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    reply = {"model": "served", "choices": [choice], "usage": {"completion_tokens": 7}}
    return 200, {}, json.dumps(reply).encode()


class Server:
    """`play(times, digest)`: what a request is answered that is met for the n-th time; None: nothing, until the end."""

    def __init__(self) -> None:
        self.play: Play = lambda times, digest: said(f"a dog number {int(digest[:6], 16)}")
        self.met: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.over = threading.Event()
        self._lock = threading.Lock()

    def meet(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        digest = hashlib.sha256(body).hexdigest()
        with self._lock:
            self.met[digest] += 1
            self.bodies.append(json.loads(body))
            self.keys.add(handler.headers.get("Authorization"))
            reply = self.play(self.met[digest], digest)
        if reply is None:
            self.over.wait(60)
            return
        status, headers, data = reply
        with contextlib.suppress(OSError):
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(data)
        if status == 200 and b"choices" in data and "Content-Length" not in headers:
            with self._lock:
                self.answered[digest] += 1


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    ours = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            ours.meet(self)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield ours, f"http://127.0.0.1:{http.server_port}/v1#served"
        ours.over.set()
        http.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("parts")
    _, filter = save_tiny_models(folder)
    return {"web": write_web(folder / "web", shards=2, samples=8), "filter": filter.uri}


def quick(**more: Any) -> dict[str, Any]:
    return {**FAST, "endpoint": {"pause": 0.01, "timeout": 2.0, "concurrency": 4, **more}}


def captions(uri: str) -> list[Any]:
    shards = load_manifest(uri).shards
    return [row for one in shards for row in stored_candidates(uri, one.parquet).rows() if row.source == "synthetic"]


def test_trouble_that_passes_costs_nothing_and_bad_texts_are_kept_out(
    server: tuple[Server, str], parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, place = server
    monkeypatch.setenv("CAPFILT_ENDPOINT_KEY", "a-key")
    texts = [said("!!!!!!!!!!!!!!!!"), said("a dog and then", "length"), said("I'm sorry, I can't help with that.")]
    troubles: list[Reply] = [
        (429, {"Retry-After": "0"}, b"slow down"),
        (500, {}, b"oh"),
        (200, {}, b'{"choices": []}'),
        (200, {"Content-Length": "999"}, b'{"choices": [{"mess'),
        (302, {"Location": "http://127.0.0.1:1/"}, b""),
    ]

    def play(times: int, digest: str) -> Reply:
        kind = int(digest[:8], 16)
        if times <= 1 + kind % 2:
            return troubles[(kind + times) % len(troubles)]
        return texts[kind % 4] if kind % 4 < 3 else said(f"a dog number {kind}")

    ours.play = play
    made = api.regenerate(**parts, captioner=place, out=tmp_path / "made", **quick())
    rows = captions(made.dataset.uri)
    assert len(rows) == 16 and made.metrics["capfilt/images_in"] == 16
    outcomes = Counter(row.outcome for row in rows)
    assert outcomes.keys() <= {"ok", "repeated", "cut", "refusal", "error"} and len(outcomes) >= 3
    assert all((row.outcome == "ok") == row.kept or row.reason == "duplicate" for row in rows)
    assert {row.rule for row in rows if row.outcome == "error"} <= {"HTTP 302"}  # a refusal of its own: never followed
    body = ours.bodies[0]
    assert body["temperature"] == 0.0 and body["max_tokens"] == 96 and "top_p" not in body
    assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert ours.keys == {"Bearer a-key"}
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [data for data in written if b"a-key" in data]


RUN = """
import sys
import capfilt
from capfilt import api
web, filter, place, out = sys.argv[1:]
api.regenerate(web=web, filter=filter, captioner=place, out=out, precision="fp32", read_threads=1, threshold=0.0,
               batch_size=4, endpoint={"pause": 0.01, "timeout": 60.0, "concurrency": 2})
"""


def test_a_killed_run_asks_nothing_again_that_was_answered(
    server: tuple[Server, str], parts: dict[str, Any], tmp_path: Path
) -> None:
    """Killed outright while the eleventh image waits; started again it ends as a run that was never stopped."""
    ours, place = server
    stuck = threading.Event()

    def play(times: int, digest: str) -> Reply | None:
        if len(ours.met) > 10 and not stuck.is_set():
            stuck.set()
        return None if stuck.is_set() and not ours.over.is_set() else said(f"a dog number {int(digest[:6], 16)}")

    ours.play = play
    out = tmp_path / "made"
    command = [sys.executable, "-c", RUN, str(parts["web"]), parts["filter"], place, str(out)]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        assert stuck.wait(300)
        answers = tmp_path / "made.answers"
        deadline = time.monotonic() + 60
        while min(len(list(answers.rglob("*.json"))), ours.answered.total()) < 10 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    before = dict(ours.answered)
    assert len(before) == 10 and not (out / "manifest.json").exists()
    ours.over.set()
    again = api.regenerate(**parts, captioner=place, out=out, **quick())
    assert all(ours.met[digest] == 1 for digest in before)
    assert len(ours.answered) == 16 and set(ours.answered.values()) == {1}
    asked = ours.met.total()
    (tmp_path / "made.answers").rename(tmp_path / "whole.answers")
    whole = api.regenerate(**parts, captioner=place, out=tmp_path / "whole", **quick())
    assert ours.met.total() == asked and whole.dataset.digest == again.dataset.digest  # the answers are the record


def files(root: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(root).rglob("*")) if path.is_file()}


def test_errors_are_tried_again_and_nothing_else(
    server: tuple[Server, str], parts: dict[str, Any], tmp_path: Path
) -> None:
    """A server that refuses some images for a while: a child of the sealed version has what it says of them later."""
    ours, place = server
    web = write_web(tmp_path / "web", shards=3, samples=4)
    run: dict[str, Any] = {"web": web, "filter": parts["filter"], "captioner": place}
    refused: set[str] = set()

    def play(times: int, digest: str) -> Reply:
        if not refused or len(ours.met) in (7, 8):  # in the first shard and in the second
            refused.add(digest)
        return (400, {}, b"") if digest in refused else said(f"a dog number {int(digest[:6], 16)}")

    ours.play = play
    old = api.regenerate(**run, out=tmp_path / "old", **quick(concurrency=1)).dataset
    before, bytes_before = captions(old.uri), files(old.uri)
    failed = [row.key for row in before if row.outcome == "error"]
    assert len(failed) == len(refused) == 3
    ours.met.clear()
    ours.play = lambda times, digest: said("a cat at last") if digest in refused else (500, {}, b"")
    retry: dict[str, Any] = {**run, "out": tmp_path / "new", "extend": old.uri, "retry": "errors", **quick()}
    made = api.regenerate(**retry)
    assert set(ours.met) == refused and files(old.uri) == bytes_before
    after = captions(made.dataset.uri)
    assert [row for row in after if row.key not in failed] == [row for row in before if row.key not in failed]
    again = [row for row in after if row.key in failed]
    assert all((row.outcome, row.text) == ("ok", "a cat at last") and row.itm_probability is not None for row in again)
    counts, manifest = load_manifest(made.dataset.uri).totals, load_manifest(made.dataset.uri)
    assert counts.samples == 12 == counts.kept + counts.dropped + sum(counts.failed.values())
    assert {(one.role, one.digest) for one in manifest.parents} >= {("extends", old.digest)}
    assert verify(made.dataset.uri).problems == () and "capfilt/caption_error" not in made.metrics
    shards = [{one.name: one.tar.sha256 for one in load_manifest(uri).shards} for uri in (old.uri, made.dataset.uri)]
    touched = {row.key[:5] for row in again}
    assert {name for name in shards[0] if shards[0][name] != shards[1][name]} == touched != set(shards[0])
    words = ["--web", str(web), "--captioner", place, "--filter", parts["filter"], "--out", str(tmp_path / "new")]
    words += ["--extend", old.uri, "--retry", "errors", "--threshold", "0", "--dtype", "fp32", "--json"]
    again_typed = CliRunner().invoke(app, ["regenerate", *words])
    assert json.loads(again_typed.stdout)["dataset"]["digest"] == made.dataset.digest, again_typed.output

    child = {**run, "out": tmp_path / "other", "extend": made.dataset.uri, **quick()}
    with pytest.raises(ConfigError, match="has no caption whose outcome is error: there is nothing to try again"):
        api.regenerate(**child, retry="errors")
    with pytest.raises(ConfigError, match="'ok' is no outcome to try again: name errors, empty, repeated"):
        api.regenerate(**child, retry="ok")
    with pytest.raises(ConfigError, match="retry is for a finished version: name it by extend"):
        api.regenerate(**{**child, "extend": None}, retry="errors")
    with pytest.raises(ConfigError, match="was made otherwise: captioner.* give those"):
        api.regenerate(**{**child, "extend": old.uri, "captioner": place + "-2"}, retry="errors")


def test_endless_failure_and_budgets_end_with_counts(
    server: tuple[Server, str], parts: dict[str, Any], tmp_path: Path
) -> None:
    ours, place = server
    ours.play = lambda times, digest: (503, {}, b"")
    with pytest.raises(CapfiltError, match=r"failed \d captions in a row, the last with 'HTTP 503' .*0 answered"):
        api.regenerate(**parts, captioner=place, out=tmp_path / "a", **quick(give_up_after=3, attempts=2))
    ours.play = lambda times, digest: said(f"a dog number {int(digest[:6], 16)}")
    with pytest.raises(CapfiltError, match="the budget is spent .5 requests sent, . answered"):
        api.regenerate(**parts, captioner=place, out=tmp_path / "b", **quick(max_requests=5))
    assert len(list((tmp_path / "b.answers").rglob("*.json"))) == 5
    ours.play = lambda times, digest: (401, {}, b"")
    with pytest.raises(ModelError, match="answers 401 for model 'served': check .*CAPFILT_ENDPOINT_KEY"):
        api.regenerate(**parts, captioner=place, out=tmp_path / "c", **quick())


def test_what_cannot_be_asked_is_said_before(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: dict[str, Any] = {**parts, "out": tmp_path / "x"}
    with pytest.raises(ConfigError, match="is no endpoint: write http://HOST:PORT/v1#MODEL"):
        api.regenerate(**run, captioner="http://127.0.0.1:1/v1", **quick())
    with pytest.raises(ConfigError, match="one process asks a server"):
        api.regenerate(**run, captioner="http://127.0.0.1:1/v1#m", workers=2, **quick())
    with pytest.raises(ConfigError, match="servers do not search by beam"):
        api.regenerate(**run, captioner="http://127.0.0.1:1/v1#m", decoding={"method": "beam"}, **quick())
    monkeypatch.setenv("CAPFILT_ENDPOINT_KEY", "a-key")
    with pytest.raises(ConfigError, match="would be sent in the open: use https"):
        api.regenerate(**run, captioner="http://models.example/v1#m", **quick())


def test_a_pilot_says_what_the_whole_costs_and_its_answers_are_not_paid_for_again(
    server: tuple[Server, str], parts: dict[str, Any], tmp_path: Path
) -> None:
    ours, address = server
    asked = {**parts, "captioner": address, "out": tmp_path / "o", **quick()}
    found = capfilt.pilot(**asked, images=6)
    assert (found.requests, found.tokens, sum(ours.met.values())) == (16, 7 * 16, 6)
    api.regenerate(**asked)
    assert sum(ours.met.values()) == 16 and set(ours.met.values()) == {1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o", "o.answers", "o.pilot"]
