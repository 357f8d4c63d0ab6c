"""A dataset of tiny models over odd web shards, cut again, and the browser over both: one on a folder, one on S3."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.common.storage import open_store
from components.model.checkpoints.publishing import reference_model
from components.regeneration.config import CapfiltConfig
from components.regeneration.recut import recut_dataset
from components.regeneration.run import run_capfilt
from tests.helpers.chromium import NoChromium, Page, chromium, why_none
from tests.helpers.s3 import BUCKET, serve_s3
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import bad_images, good_sample, tar_bytes, write_web

EVIL = "<script>document.title='evil'</script><img src=x onerror=alert(1)>"
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Cut:
    """A dataset, and the same at another threshold and policy."""

    folder: Path
    before: str
    after: str


@pytest.fixture(scope="session")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Cut:
    folder = tmp_path_factory.mktemp("browse")
    web = write_web(folder / "web", shards=2, samples=30)
    odd = [(key, {**good_sample(1), "jpg": data}) for key, (data, _) in bad_images().items()]
    odd += [("evil", {**good_sample(2), "txt": EVIL.encode()}), ("wordless", {**good_sample(3), "txt": b""})]
    several = b'{"captions": ["A dog ", "a  DOG", "\xc3\xa4 tree", "a tree"]}'
    odd += [("several", {"jpg": good_sample(4)["jpg"], "json": several})]
    (web / "00002.tar").write_bytes(tar_bytes(odd))
    models = save_tiny_models(folder / "models")
    refs = reference_model(models[0].uri, "captioner"), reference_model(models[1].uri, "filter")
    config = CapfiltConfig(batch_size=16, threads=1, threshold=0.5, precision="fp32", captions_per_image=2)
    store = open_store(str(folder))
    made = run_capfilt(str(web), *refs, config, store=store, name="out", out=store.child("out")).dataset
    again = recut_dataset(
        made.uri, threshold=0.2, policy="best_of", store=store, name="cut", out=store.child("cut")
    ).dataset
    return Cut(folder, made.uri, again.uri)


@dataclass(frozen=True)
class Served:
    """A running browser."""

    address: str
    marks: Path
    process: "subprocess.Popen[str]"


@pytest.fixture(scope="session")
def served(cut: Cut) -> Iterator[Served]:
    """The versions side by side: before in its folder, after on S3."""
    with serve_s3(cut.folder / "s3") as s3:
        shutil.copytree(cut.after, s3.folder / BUCKET / "cut")
        marks = cut.folder / "marks.jsonl"
        command = [sys.executable, "-m", "capfilt.cli.main", "browse", cut.before, f"{s3.uri}/cut", "--port", "0"]
        environment = {**os.environ, **s3.environment(), "XDG_CACHE_HOME": str(cut.folder / "cache")}
        environment["PYTHONPATH"] = str(ROOT)
        with subprocess.Popen(
            [*command, "--marks", str(marks), "--model", str(cut.folder / "models" / "filter")],
            stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                address = process.stdout.readline().split()[-1]
                yield Served(address.rstrip("/"), marks, process)
            finally:
                process.send_signal(signal.SIGTERM)
                code = process.wait(300)  # a machine at work may take its time
    assert code == 130


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A tab of a Chromium of its own; one that this machine cannot run is no fault of the pages."""
    if why := why_none():
        pytest.skip(why)
    with contextlib.ExitStack() as stack:
        try:
            one = stack.enter_context(chromium())
        except NoChromium as error:
            pytest.skip(str(error))
        one.look(1440)
        yield one
