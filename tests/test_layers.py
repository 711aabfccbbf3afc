from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("features", "training", "serving")
MODULES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


@cache
def imported(tree: ast.AST) -> frozenset[str]:
    """Full names of what is imported anywhere in a module."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def at_load(tree: ast.AST) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported: not those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            if isinstance(node, ast.stmt):
                yield node
            yield from at_load(node)


def loaded(tree: ast.AST) -> set[str]:
    """Full names imported when a module is imported; those for the type checker are not."""
    lines = {
        line.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for line in node.body
    }
    return {
        name
        for node in at_load(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and node.lineno not in lines
        for name in imported(ast.Module([node], []))
    }


def tops(names: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def users(top: str) -> set[str]:
    return {path for path, tree in MODULES.items() if top in tops(imported(tree))}


def test_the_walk_sees_the_modules_and_their_imports():
    assert {"features/spine.py", "features/windows.py", "training/labels.py"} <= set(MODULES)
    assert imported(MODULES["training/labels.py"]) >= {
        "numpy", "features.windows", "features.behaviour.Rows",
    }  # fmt: skip
    lazy = ast.parse("def f():\n    import a.b\nfrom c import d\nclass E:\n    import g")
    assert imported(lazy) == {"a.b", "c.d", "g"}
    assert loaded(lazy) == {"c.d", "g"}
    typed = ast.parse("if TYPE_CHECKING:\n    import a\nif True:\n    import b")
    assert loaded(typed) == {"b"}


@pytest.mark.parametrize(
    ("package", "above"), [("features", {"training", "serving"}), ("training", {"serving"})]
)
def test_imports_go_down_only(package, above):
    for path, tree in MODULES.items():
        if path.startswith(f"{package}/"):
            assert not tops(imported(tree)) & above, path


def test_modules_do_not_load_in_circles():
    names = {path.removesuffix(".py").replace("/", "."): path for path in MODULES}
    left = {
        name: {
            other
            for found in loaded(MODULES[path])
            for other in names
            if other != name and f"{found}.".startswith(f"{other}.")
        }
        for name, path in names.items()
    }
    while True:
        free = [name for name, below in left.items() if not below & left.keys()]
        if not free:
            break
        for name in free:
            del left[name]
    assert not left, f"in circles: {sorted(left)}"


def test_who_may_import_what():
    assert users("mlflow") <= {"training/registry.py", "training/tracking.py"}
    assert users("numba") == {"features/windows.py"}
    for name in ("pickle", "cloudpickle", "dill", "shelve", "marshal"):
        assert users(name) == set(), name


def test_features_load_without_the_heavy_ones():
    heavy = {"matplotlib", "mlflow", "xgboost", "sklearn"}
    for path, tree in MODULES.items():
        if path.startswith("features/"):
            assert not tops(loaded(tree)) & heavy, path


def test_joblib_never_loads_a_file():
    """joblib.load is pickle by another name."""
    for path, tree in MODULES.items():
        names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & {"joblib.load", "joblib.dump", "pd.read_pickle", "torch.load"}, path
        assert not imported(tree) & {"joblib.load", "joblib.dump", "pandas.read_pickle"}, path


def test_features_and_labels_do_not_look_at_the_clock():
    """R-E14: an as_of comes from the data or the caller."""
    core = [
        "features/spine.py", "features/formulas.py", "features/windows.py",
        "features/catalogue.py", "features/behaviour.py", "features/store.py",
        "training/labels.py",
    ]  # fmt: skip
    for path in core:
        calls = {node.attr for node in ast.walk(MODULES[path]) if isinstance(node, ast.Attribute)}
        assert not calls & {"now", "utcnow", "today", "time_ns", "localtime"}, path
        assert "time" not in tops(imported(MODULES[path])), path
