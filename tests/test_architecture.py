"""The rules of the house that a machine can check (CONTRIBUTING.md)."""

import ast
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FLOWS = sorted((ROOT / "flows").glob("*.py"))
WITH_FLOWS = [path for path in FLOWS if "@flow(" in path.read_text()]
SOURCES = sorted([*FLOWS, *(ROOT / "capfilt").rglob("*.py"), *(ROOT / "components").rglob("*.py")])


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(path: Path) -> set[str]:
    """Top-level names of everything a file imports, at module level or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_imports_go_one_way() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("package", "home"),
    [
        ("boto3", "components/common/storage/"),
        ("botocore", "components/common/storage/"),
        ("mlflow", "components/common/tracking/"),
        ("deepspeed", "components/training/engine.py"),
        ("ray", "components/regeneration/engines.py"),
        ("webdataset", "components/data/pipeline.py"),
        ("transformers", "components/inference/loading.py"),
        ("huggingface_hub", "components/inference/hub.py"),
        ("lingua", "components/regeneration/language.py"),
    ],
)
def test_one_module_per_outside_dependency(package: str, home: str) -> None:
    """Also for imports inside functions, which import-linter sees too; here with the place named."""
    users = [_relative(path) for path in SOURCES if package in _imports(path)]
    assert all(user == home or (home.endswith("/") and user.startswith(home)) for user in users), users


def test_the_web_framework_only_in_the_browser() -> None:
    users = [_relative(path) for path in SOURCES if {"fastapi", "starlette"} & _imports(path)]
    assert users
    assert all(user.startswith("components/pages/browser/") for user in users)


def test_prefect_only_in_flows() -> None:
    users = [_relative(path) for path in SOURCES if "prefect" in _imports(path)]
    assert users
    assert all(user.startswith("flows/") for user in users)


def test_importing_everything_loads_nothing_heavy() -> None:
    names = [module.name for module in pkgutil.walk_packages([str(ROOT / "components")], "components.")]
    imports = "\n".join(f"import {name}" for name in names if not name.endswith("__main__"))
    heavy = ["deepspeed", "mlflow", "ray", "boto3", "prefect", "transformers", "matplotlib", "webdataset", "lingua"]
    code = f"import sys\n{imports}\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
def test_no_flow_file_shadows_a_package(path: Path) -> None:
    """Prefect puts flows/ in front of sys.path and leaves it there (docs/facts.md 15)."""
    if path.stem != "__init__":
        assert importlib.util.find_spec(path.stem) is None


@pytest.mark.parametrize("path", WITH_FLOWS, ids=lambda path: path.stem)
def test_flow_files_define_no_classes(path: Path) -> None:
    """A class of a flow file has two identities, and a cache key with it two values."""
    assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
def test_stages_run_on_the_main_thread(path: Path) -> None:
    """A submitted task is not reached by a cancellation, and its training would live on (docs/facts.md 15)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("submit", "delay", "map")


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_no_import_time_reading_of_the_environment(path: Path) -> None:
    tree = ast.parse(path.read_text())
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
            assert id(node) in inside or _is_main_guard(tree, node), f"{path}:{node.lineno}"


def _is_main_guard(tree: ast.Module, wanted: ast.AST) -> bool:
    return any(wanted in ast.walk(node) for node in tree.body if isinstance(node, ast.If))


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_nothing_unpickles(path: Path) -> None:
    """DeepSpeed's own checkpoints aside, which only their own trainer reads."""
    assert not _imports(path) & {"dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        called = ast.unparse(node.func)
        assert called not in ("pickle.load", "pickle.loads", "pickle.Unpickler")
        if called == "torch.load":
            assert any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)


def test_what_we_start_binds_to_loopback() -> None:
    for path in SOURCES:
        assert "0.0.0.0" not in path.read_text(), path


def test_the_stacks_ports_are_on_loopback_and_its_files_exist() -> None:
    stack = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
    for name, service in stack["services"].items():
        for port in service.get("ports", ()):
            assert str(port).startswith("127.0.0.1:"), name
        if isinstance(service.get("build"), dict):
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert not str(service.get("image", "")).endswith(":latest")
    assert "minio" not in (ROOT / "infra" / "compose.yaml").read_text().lower()


def test_the_example_of_secrets_holds_none() -> None:
    for line in (ROOT / "infra" / ".env.example").read_text().splitlines():
        name, _, value = line.partition("=")
        assert not value or not any(word in name for word in ("PASSWORD", "KEY", "SECRET"))


def test_deployments_name_flows_that_exist() -> None:
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for deployment in document["deployments"]:
        file, _, name = deployment["entrypoint"].partition(":")
        functions = [
            node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)
        ]
        assert name in functions
        assert "retries" not in deployment
        # the store's lock keeps runs apart; Prefect's limit is leased from a server, and ends runs when that goes away
        assert "concurrency_limit" not in deployment


def test_constraints_are_portable() -> None:
    """Versions, some with a reason beside them: no local builds, no paths, and what the declared limits say."""
    lines = [line.partition("  #")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()]
    assert all("==" in line and "+" not in line and "/" not in line for line in lines)
    assert {"torch==2.13.0", "deepspeed==0.19.7", "prefect==3.8.8"} <= set(lines)
    versions = dict(line.lower().split("==") for line in lines)
    assert _number(versions["fastapi"]) < (0, 151) and _number(versions["sqlalchemy"]) < (2, 1)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
