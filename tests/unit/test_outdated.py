"""What a run would do again in a store of an earlier release is told, and why."""

import ast
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capfilt.cli.main import app
from components.common.storage import Store, open_store
from flows.outdated import outdated, revisions

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "format1" / "store"


def test_every_kind_of_stage_has_its_revision() -> None:
    kinds: set[str] = set()
    for path in (ROOT / "flows").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Stage":
                kind = node.args[1]
                roles = ("captioner", "filter", "vqa") if isinstance(kind, ast.JoinedStr) else ("",)
                text = kind.values[0] if isinstance(kind, ast.JoinedStr) else kind
                assert isinstance(text, ast.Constant)
                kinds |= {f"{text.value}{role}" for role in roles}
    assert kinds == revisions().keys()


def _record(store: Store, stage: str, kind: str, revision: int, depends: object, digest: str) -> None:
    record = {"stage": stage, "kind": kind, "revision": revision, "depends": depends}
    record |= {"result": {"model": {"digest": digest}}, "seconds": 1.0, "finished": 0.0}
    store.write(f"stages/{kind}/{digest}.json", json.dumps(record).encode())


def test_what_follows_from_an_outdated_stage_is_outdated(tmp_path: Path) -> None:
    store, today = open_store(str(tmp_path)), revisions()
    _record(store, "round-0/evaluate", "evaluate", today["evaluate"], {"captioner": "c"}, "e")
    _record(store, "round-0/captioner", "finetune-captioner", today["finetune-captioner"], {"base": "b"}, "c")
    _record(store, "round-0/pretrain", "pretrain", today["pretrain"], {"mixture": [["w", 1], ["h", 1]]}, "b")
    _record(store, "import/web", "import-web", today["import-web"], {}, "w")
    _record(store, "round-1/later", "of a later release", 1, {"x": "w"}, "l")
    assert outdated(store) == {}
    _record(store, "import/human-train", "import-human", today["import-human"] - 1, {}, "h")
    found = outdated(store)
    assert found.keys() == {"import/human-train", "round-0/pretrain", "round-0/captioner", "round-0/evaluate"}
    assert found["round-0/captioner"] == "made from round-0/pretrain"
    assert "revision" in found["import/human-train"]


@pytest.mark.parametrize("as_json", [True, False])
def test_an_upgrade_says_what_will_be_done_again(tmp_path: Path, as_json: bool) -> None:
    store = shutil.copytree(GOLDEN, tmp_path / "store")
    done = CliRunner().invoke(app, ["store", "upgrade", str(store), *(["--json"] if as_json else [])])
    assert done.exit_code == 0, done.output
    stages = {"import/human-train", "import/web", "round-1/capfilt"}
    if as_json:
        assert json.loads(done.stdout)["done_again"].keys() == stages
    else:
        assert all(f"  {stage}: " in done.stdout for stage in stages)
        assert "sample-world" not in done.stdout
