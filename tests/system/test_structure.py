"""Properties of the house itself: names, sizes, arrows that no other gate holds."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cloud", "common", "deploy", "edge")
GENERATED = ROOT / "common" / "pb"
MAX_LINES = 400


def own_files() -> list[Path]:
    files = [path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")]
    return [path for path in files if GENERATED not in path.parents]


def project() -> dict[str, Any]:
    text = (ROOT / "pyproject.toml").read_text()
    table: dict[str, Any] = tomllib.loads(text)["project"]
    return table


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;! ]", line)[0].lower() for line in requirements}


def modules_after(statement: str) -> set[str]:
    """The top-level names in sys.modules after a statement, in a new process."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{statement}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("folder", ["proto", "tests"])
def test_folders_that_would_shadow_others_are_no_packages(folder: str) -> None:
    # proto-plus installs a package `proto`; tests/cloud would be found for `cloud`.
    assert not list((ROOT / folder).rglob("__init__.py"))


def test_files_stay_short() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in own_files()
    }
    assert {name: n for name, n in lines.items() if n > MAX_LINES} == {}


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "base", "misc"}
    assert [path for path in own_files() if path.stem in drawers] == []


def test_children_in_python_are_started_by_one_function() -> None:
    starts = [
        path.relative_to(ROOT)
        for path in own_files()
        if re.search(r"\[\s*sys\.executable", path.read_text())
    ]
    assert starts == [Path("common/interpreter.py")]


def test_sources_are_ascii() -> None:
    others = [ROOT / "takt", ROOT / "constraints.txt", ROOT / "pyproject.toml"]
    others += (ROOT / "proto").rglob("*.proto")
    others += (ROOT / "deploy").rglob("*.toml")
    odd = [path for path in [*own_files(), *others] if not is_ascii(path)]
    assert odd == []


def is_ascii(path: Path) -> bool:
    return path.read_bytes().isascii()


def test_every_module_says_what_it_is() -> None:
    files = [path for path in own_files() if path.name != "__init__.py"]
    assert [path for path in files if not path.read_text().startswith('"""')] == []


def test_the_ambiguous_word_for_an_attack_step_names_nothing_of_ours() -> None:
    # torch calls the factor of its additions so; only such calls may write it.
    named = [
        path
        for path in own_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if "alpha" in (getattr(node, name, None) for name in ("id", "attr", "name"))
        or (isinstance(node, ast.arg) and node.arg == "alpha")
    ]
    assert named == []


@pytest.mark.parametrize("module", ["edge.daemon", "edge.limits", "deploy.cli.main"])
def test_importing_it_loads_neither_torch_nor_ray(module: str) -> None:
    heavy = {"torch", "torchvision", "ray", "sklearn"}
    assert modules_after(f"import {module}") & heavy == set()


@pytest.mark.parametrize(
    "module",
    [
        "edge.daemon",
        "edge.distill",
        "deploy.cli.main",
        "deploy.compare.run",
        "deploy.simulation.simulate",
    ],
)
def test_what_draws_and_lays_out_is_loaded_where_a_page_is_written(
    module: str,
) -> None:
    assert modules_after(f"import {module}") & {"jinja2", "matplotlib"} == set()


def test_a_node_needs_neither_ray_nor_a_database_to_be_installed() -> None:
    base = names_of(project()["dependencies"])
    drawing = {"jinja2", "matplotlib"}
    assert base & {"ray", "sqlalchemy", "pyautoattack", *drawing} == set()


def test_every_direct_dependency_has_one_tested_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins)
    assert len({name for name, _ in pins}) == len(pins)
    extras = project()["optional-dependencies"]
    wanted = names_of(project()["dependencies"])
    wanted |= {name for extra in extras.values() for name in names_of(extra)}
    assert wanted - {name for name, _ in pins} == set()


def test_constraints_leave_the_build_of_torch_open() -> None:
    # A local suffix (+cpu, +cu130) would shut the other builds out.
    assert "+" not in (ROOT / "constraints.txt").read_text()
