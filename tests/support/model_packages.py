"""Packages with models that a test makes, or takes from example_models/, as installed.

What pip leaves of a package is a module and a folder NAME-VERSION.dist-info; both are
written to a folder that a test puts on sys.path.
"""

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLE = Path(__file__).with_name("example_models")
EXAMPLE_MODEL = "takt-example-models/patch_net"


def write_package(folder: Path, name: str, code: str, *models: str) -> Path:
    """Write a package of one module, whose functions are its models.

    Args:
        folder: takes the module and its dist-info.
        name: of the package; its module has underscores.
        code: of the module.
        models: names of its functions.

    Returns:
        The folder, for sys.path.
    """
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    )
    points = [f"{model} = {module}:{model}" for model in models]
    (info / "entry_points.txt").write_text("\n".join(["[takt.models]", *points, ""]))
    return folder


def write_example(folder: Path) -> Path:
    """Write the package in example_models/ as it is when installed."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    code = (EXAMPLE / "takt_example_models.py").read_text()
    (models,) = project["entry-points"].values()
    return write_package(folder, project["name"], code, *models)


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Let this process find what was written to a folder."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
