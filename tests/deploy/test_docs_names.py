"""The documentation: commands, files and modules that it names exist."""

import re
from pathlib import Path

import pytest
import yaml
from doc_texts import (
    ROOT,
    bare_modules,
    code_files,
    exists,
    named_modules,
    named_paths,
    prose_of,
    shell_lines,
    takt_commands,
    wrong_command,
)

from deploy.dev.docs import PACKAGES, pages

COMPOSE = "deploy/containers/compose.yaml"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_command_of_a_page_has_a_verb_and_options_that_exist(page: Path) -> None:
    commands = list(takt_commands(page.read_text()))
    assert [
        (words, wrong) for words in commands if (wrong := wrong_command(words))
    ] == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("`takt simulate --config mnist`", None),
        ("`takt simulat`", "verb simulat"),
        ("`takt cloud trian`", "verb trian"),
        ("`takt cloud run --no-serve`", None),
        ("`./takt edge run --confg x`", "option --confg"),
        ("`takt VERB --help`", None),
        ("```sh\n. x && A=1 /opt/takt/takt fit --cpu 3   # why\n```", "option --cpu"),
    ],
)
def test_a_misspelt_command_is_found(line: str, wrong: str | None) -> None:
    (words,) = takt_commands(line)
    assert wrong_command(words) == wrong


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_module_and_service_that_a_page_runs_exists(page: Path) -> None:
    services = yaml.safe_load((ROOT / COMPOSE).read_text())["services"]
    text = page.read_text()
    for line in shell_lines(text):
        if line.startswith("docker compose"):
            assert f"-f {COMPOSE}" in line
            for service in re.findall(r" (?:run --rm|exec) (\w+)", line):
                assert service in services
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert not module.startswith(PACKAGES) or exists(module), module


def test_every_service_of_the_containers_page_is_one_of_the_compose_file() -> None:
    services = yaml.safe_load((ROOT / COMPOSE).read_text())["services"]
    page = (ROOT / COMPOSE).with_name("README.md").read_text()
    table = page.partition("| service |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    assert named and set(named) <= set(services)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    missing = [path for path in named_paths(text) if not (ROOT / path).exists()]
    here = {path.name for path in page.parent.rglob("*.py")}
    assert missing + sorted(bare_modules(text) - here) == []


def test_every_file_that_a_docstring_or_comment_names_exists() -> None:
    tests = {path.name for path in (ROOT / "tests").rglob("*.py")}
    missing = {}
    for module in code_files():
        text = prose_of(module)
        here = {path.name for path in module.parent.glob("*.py")}
        here |= tests if "tests" in module.parts else set()
        found = [path for path in named_paths(text) if not (ROOT / path).exists()]
        if found := found + sorted(bare_modules(text) - here):
            missing[name_of(module)] = found
    assert missing == {}


def test_every_module_that_a_docstring_or_comment_names_exists() -> None:
    missing = {}
    for module in code_files():
        names = named_modules(prose_of(module))
        if found := [name for name in names if not exists(name)]:
            missing[name_of(module)] = found
    assert missing == {}


def test_a_name_that_does_not_exist_is_found() -> None:
    assert exists("deploy.dev.docs.pages")
    assert exists("edge.limits.probe_methods")
    assert not exists("deploy.dev.dosc")
    assert not exists("deploy.dev.docs.page_table")
    assert named_modules("see edge.distill.run, edge.toml") == {"edge.distill.run"}
    assert named_paths("(`edge/distill/run.py`)") == {"edge/distill/run.py"}
    assert bare_modules("as losses.py, edge/state.py and *_table.py") == {"losses.py"}
