"""What pages, docstrings and comments say of the code: their commands and names."""

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.core import TyperGroup

from deploy.cli.main import app
from deploy.dev.docs import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
CODE_FOLDERS = (*PACKAGES, "tests")
# What may stand before the verb: variables, a container to run in, takt itself.
_BEFORE_TAKT = re.compile(
    r"\s*(?:\w+=\S*\s+)*(?:docker compose -f \S+ exec \w+\s+)?"
    r"(?:(?:\S*/)?takt|python -m deploy\.cli\.main)\s+"
)
OPTIONS_OF_TEST = {"--slow", "--docker", "--all", "-k", "--begin-before"}


def code_files() -> list[Path]:
    """Every module that is not generated."""
    found = [path for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if path.parent.name != "pb")


@functools.cache
def prose_of(module: Path) -> str:
    """The docstrings and comments of a module."""
    text = module.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, owners)]
    return "\n".join([*(ast.get_docstring(n) or "" for n in nodes), *comments])


def shell_lines(page: str) -> Iterator[str]:
    """The lines of a page's ```sh blocks, continued lines as one, without comments."""
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if command := re.sub(r"(^|\s)#.*", "", line).strip():
                yield command


def takt_commands(text: str) -> Iterator[list[str]]:
    """The arguments of each call of takt in shell lines, or in `code` of prose."""
    lines = [*shell_lines(text), *re.findall(r"`((?:\./)?takt [^`\n]+)`", text)]
    for line in lines:
        for command in re.split(r"&&|\||;|>|\$\(|\)| -- ", line):
            if called := _BEFORE_TAKT.match(command):
                yield command[called.end() :].split()


def wrong_command(words: list[str]) -> str | None:
    """What is wrong with a call of takt: its verb or one of its options; None: nothing.

    Words in capitals stand for something, and end the check of verbs.
    """
    if words[:1] == ["test"]:
        wrong = [w for w in words if w.startswith("-") and w not in OPTIONS_OF_TEST]
        return f"option {wrong[0]} of test" if wrong else None
    command = typer.main.get_command(app)
    for at, word in enumerate(words):
        if not isinstance(command, TyperGroup) or word.startswith("-"):
            return _wrong_option(command, words[at:])
        if word.isupper():
            return None
        if word not in command.commands:
            return f"verb {word}"
        command = command.commands[word]
    return None


def _wrong_option(command: object, words: list[str]) -> str | None:
    parameters = getattr(command, "params", [])
    known = {"--help"} | {o for p in parameters for o in (*p.opts, *p.secondary_opts)}
    for word in words:
        if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known:
            return f"option {word}"
    return None


def named_paths(text: str) -> set[str]:
    """Paths of the clone in a text, such as deploy/dev/docs.py."""
    folders = "|".join((*PACKAGES, "proto", "tests"))
    found = re.findall(rf"(?<![\w./-])((?:{folders})/[\w./-]*\w\.\w+)", text)
    return {path for path in found if not re.search(r"/\.|\*", path)}


def named_modules(text: str) -> set[str]:
    """Dotted names below the packages, such as edge.distill.fitting.fit."""
    packages = "|".join(PACKAGES)
    pattern = rf"(?<![\w./\"-])((?:{packages})(?:\.[A-Za-z_]\w*)+)"
    files = {"edge.toml", "edge.env"}
    return set(re.findall(pattern, text)) - files


def bare_modules(text: str) -> set[str]:
    """Names of Python files without a folder, such as doc_texts.py."""
    return set(re.findall(r"(?<![\w./*-])([a-z_0-9]+\.py)\b", text))


def exists(dotted: str) -> bool:
    """Whether a dotted name is a package, a module or a name in one of them."""
    path = ROOT
    parts = dotted.split(".")
    for at, part in enumerate(parts):
        if (path / part).is_dir():
            path /= part
            continue
        if (path / f"{part}.py").is_file():
            return defines(path / f"{part}.py", parts[at + 1 :])
        return (path / "__init__.py").is_file() and defines(
            path / "__init__.py", parts[at:]
        )
    return True


def defines(module: Path, names: list[str]) -> bool:
    """Whether a module has a name at its top; deeper ones are not looked at."""
    return not names or bool(
        re.search(
            rf"^\s*(?:(?:async )?def |class )?{names[0]}\b", module.read_text(), re.M
        )
    )
