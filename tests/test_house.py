"""The house rules that a machine can hold."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("gpud", "gpuctl")
    for path in sorted((ROOT / package).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}
PYTHON_FILES = [*SOURCES.values(), *sorted((ROOT / "tests").rglob("*.py"))]

# Which part may import which, next to itself; "edge" is what stands in gpud itself. See gpud/__init__.py.
MAY_IMPORT = {
    "model": set(),
    "core": {"model"},
    "wire": {"model"},
    "inventory": {"model"},
    "launchers": {"model"},
    "store": {"model"},
    "simulator": {"model", "core", "inventory", "store"},
    "edge": {"model", "core", "wire", "inventory", "launchers", "store"},
}
GPUCTL_MAY_IMPORT = ("gpuctl", "gpud.wire", "gpud.model.units")

# What a core that decides the same twice needs of the standard library.
PURE = {
    *("__future__", "abc", "bisect", "collections", "copy", "dataclasses", "enum", "fnmatch", "fractions", "functools"),
    *("graphlib", "heapq", "itertools", "math", "operator", "re", "string", "types", "typing"),
}
PURE_NAMES = {"signal.Signals"}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "breakpoint", "__import__", "id", "hash"}

# One of these says nothing about what a module is for.
EMPTY_WORDS = {"manager", "handler", "helper", "util", "common", "base", "misc", "service", "context"}


def imports(name):
    """Every module that a module imports, wherever in it: the full names, and the packages that hold them."""
    found = set()
    package = name if SOURCES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            members = {f"{module}.{alias.name}" for alias in node.names}
            found |= {member if member in {*SOURCES, *PURE_NAMES} else module for member in members}
    return found


def part(name):
    """The part of gpud that a module belongs to."""
    words = name.split(".")
    return words[1] if len(words) > 1 and words[1] in MAY_IMPORT else "edge"


def test_the_parts_import_only_what_the_arrows_allow():
    strangers = [
        f"{name} imports {target}"
        for name in SOURCES
        for target in imports(name)
        if target.split(".")[0] in {"gpud", "gpuctl"} and not allowed(name, target)
    ]
    assert strangers == []


def allowed(name, target):
    if name.split(".")[0] == "gpuctl":
        return target == "gpud" or any(target == may or target.startswith(f"{may}.") for may in GPUCTL_MAY_IMPORT)
    if target.split(".")[0] == "gpuctl":
        return False
    return target == "gpud" or part(target) in {part(name), *MAY_IMPORT[part(name)]}


def test_no_module_imports_itself_in_the_end():
    TopologicalSorter({name: imports(name) & SOURCES.keys() - {name} for name in SOURCES}).prepare()


def test_the_core_decides_from_what_it_is_given_alone():
    impure = []
    for name in SOURCES:
        if part(name) not in {"core", "model"}:
            continue
        outside = {target for target in imports(name) if target.split(".")[0] not in {*PURE, "gpud"}}
        impure += [f"{name} imports {target}" for target in outside - PURE_NAMES]
        impure += [
            f"{name} calls {node.func.id}"
            for node in ast.walk(TREES[name])
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS
        ]
    assert impure == []


def test_every_module_and_public_name_says_what_it_is_for():
    silent = []
    for name, tree in TREES.items():
        silent += [] if ast.get_docstring(tree) else [name]
        silent += [
            f"{name}.{node.name}"
            for scope in [tree, *(inner for inner in tree.body if isinstance(inner, ast.ClassDef))]
            for node in scope.body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and not node.name.startswith("_")
            and not any(ast.unparse(each) == "overload" for each in node.decorator_list)
            and not (isinstance(scope, ast.ClassDef) and scope.name.startswith("_"))
            and not ast.get_docstring(node)
        ]
    assert silent == []


def test_modules_fit_a_sitting_and_functions_a_screen():
    lines = {name: len(path.read_text().splitlines()) for name, path in SOURCES.items()}
    long = [f"{name}: {count} lines" for name, count in lines.items() if count > 400]
    long += [
        f"{name}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno + 1 > 60
    ]
    assert long == []


def test_a_module_is_named_for_what_it_is_for():
    empty = [
        name for name in SOURCES for word in re.split(r"[._]", name.lower()) if word.removesuffix("s") in EMPTY_WORDS
    ]
    assert empty == []


def test_a_rule_is_switched_off_only_with_a_reason_beside_it():
    switch = re.compile(r"#\s*(ruff:\s*)?(noqa|type:\s*ignore)\b")
    reasoned = re.compile(r"(noqa:\s*[A-Z]+[0-9]*(,\s*[A-Z]+[0-9]*)*|ignore\[[a-z, -]+\])\s+(-|#|--)\s+\S+")
    bare = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in PYTHON_FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if switch.search(line) and not reasoned.search(line) and path != Path(__file__)
    ]
    assert bare == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("tool", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join)
def test_the_tools_find_nothing(tool):
    done = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", ["guarantees", "security"])
def test_a_page_of_promises_names_tests_that_there_are(page):
    named = set(re.findall(r"`(test_\w+)`", (ROOT / f"docs/{page}.md").read_text()))
    there = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert named
    assert named <= there
