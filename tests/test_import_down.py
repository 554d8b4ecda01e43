"""The house keeps its shape: imports go down, files and functions stay short, nothing leaks."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "reverie"
FILES = sorted(PACKAGE.rglob("*.py"))
FILE_CAP, FUNCTION_CAP = 450, 80

# room -> rooms that it may import. A room is a file or folder right under reverie/. The order is
# that of the design: core < nn < models; core < imagine < planners, behaviors < agent < train,
# evaluate, player < recipes < cli. `models` and what acts in them meet in core only.
SMALL = {"core", "progress"}
ENGINE = SMALL | {"nn", "imagine", "planners", "behaviors", "agent", "data", "envs", "metrics"}
ENGINE |= {"plan_agent"}
LEARNING = ENGINE | {"learner", "checkpoint", "run", "train", "evidence"}
MAY_IMPORT = {
    "core": set(),
    "progress": set(),
    "nn": {"core"},
    "models": {"core", "nn"},
    "imagine": {"core"},
    "envs": {"core"},
    "planners": {"core", "nn", "imagine"},
    "agent": {"core", "imagine", "planners", "behaviors"},
    "plan_agent": {"core", "agent", "planners"},
    "behaviors": SMALL | {"nn", "imagine", "planners", "learner"},
    "data": SMALL | {"agent", "envs"},
    "checkpoint": SMALL | {"data"},
    "metrics": SMALL | {"checkpoint"},
    "learner": SMALL | {"nn"},
    "evidence": {"core", "data"},
    "run": SMALL | {"learner", "agent"},
    "train": ENGINE | {"learner", "checkpoint", "run"},
    "evaluate": LEARNING,
    "player": LEARNING | {"evaluate", "loaded"},
    "recipes": LEARNING | {"evaluate", "models"},
    "bench": LEARNING | {"evaluate", "models", "recipes"},
    "loaded": LEARNING | {"evaluate"},
    "catalog": LEARNING | {"evaluate"},
    "pairs": {"core", "planners", "behaviors"},
    "cli_judge": LEARNING | {"evaluate", "catalog", "loaded", "bench"},
    "data_cli": SMALL | {"data"},
    "cli": LEARNING | {"data_cli", "evaluate", "player", "catalog", "loaded", "cli_judge", "pairs"},
    "__main__": {"cli"},
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> set[tuple[str, int]]:
    """Rooms that a file imports, at the top or inside functions, with the line."""
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "reverie" and len(parts) > 1 and parts[1] != "__version__":
                found.add((parts[1], node.lineno))
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.AST):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return (node for node in ast.walk(tree) if isinstance(node, kinds))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    own = room(path)
    if own == "__init__":
        return
    assert own in MAY_IMPORT, f"give the new room '{own}' a row in MAY_IMPORT"
    wrong = {
        f"line {line} imports reverie.{name}"
        for name, line in imported_rooms(parse(path))
        if name != own and name not in MAY_IMPORT[own]
    }
    assert not wrong, sorted(wrong)


def test_the_allowed_imports_have_no_circle():
    done: set[str] = set()
    while rows := {name: needs - done for name, needs in MAY_IMPORT.items() if name not in done}:
        ready = {name for name, needs in rows.items() if not needs}
        assert ready, f"a circle among {sorted(rows)}"
        done |= ready


def test_the_import_reader_sees_every_form():
    text = "import reverie.train\nfrom reverie import envs\ndef f():\n  from reverie.nn.x import y"
    assert imported_rooms(ast.parse(text)) == {("train", 1), ("envs", 2), ("nn", 4)}


def test_the_face_defines_nothing():
    tree = parse(PACKAGE / "__init__.py")
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert defined == {"__getattr__", "__dir__"}


def test_the_face_says_the_same_to_type_checkers_and_to_python():
    import reverie

    tree = parse(PACKAGE / "__init__.py")
    static = {
        (alias.name, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert static == set(reverie._HOME.items())


def test_every_public_name_is_there_and_none_is_also_a_module():
    import reverie

    modules = {room(path) for path in FILES}
    for name in reverie._HOME:
        assert getattr(reverie, name).__name__ == name
        assert name not in modules, f"reverie.{name} would be the module once it is imported"
    assert set(reverie._HOME) <= set(dir(reverie))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = reverie.nothing


def test_import_reverie_imports_nothing_heavy():
    heavy = ("torch", "numpy", "scipy", "gymnasium", "rich", "tyro", "matplotlib")
    code = (
        "import sys, reverie, reverie.cli, reverie.core.registry; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= FILE_CAP, f"{lines} lines: what deserves a file of its own?"
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in functions(parse(path))
        if node.end_lineno - node.lineno + 1 > FUNCTION_CAP
    }
    assert not long


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_names_no_machine_path_and_leaves_nothing_to_do(path):
    text = path.read_text(encoding="utf-8")
    found = [
        f"line {number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(r"/(work|tmp|root|home)/\w|\b(TODO|FIXME|XXX|HACK)\b", line)
    ]
    assert not found
