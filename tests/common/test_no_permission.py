"""Folders and images that this user may not read, or not even look at: one line each.

All of it is done by a process of another user, as root may read everything.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from class_folders import write_tree

# Imports first: the other user need not be able to read takt's own files. Folders above
# the one that it is in may be closed to it.
PROGRAM = """
import json, os, sys
from pathlib import Path
from PIL import Image
from class_folders import read_folder
from common.data.folder_counts import count_folder
from common.data.own_folder import ImageKind, read_own_folder
from common.errors import TaktError
from deploy.cli.options import existing_folder
from deploy.first_config import look_at
from deploy.report.runs import find_runs
from edge.predict import images_of
KIND = ImageKind(("cat", "dog", "owl"), (1, 8, 8))
HERE = Path()
Image.init()  # it imports its formats one by one
is_root = os.getuid() == 0
for line in sys.stdin:
    folder, expression = json.loads(line)
    os.chdir(folder)
    if is_root:
        os.seteuid(65534)
    try:
        found = str(eval(expression))
    except Exception as e:
        found = f"{type(e).__name__}: {e}"
    if is_root:
        os.seteuid(0)
    print(json.dumps(found), flush=True)
"""
TRAINED = "read_own_folder(HERE / 'own', KIND).notes"
COUNTED = "count_folder(HERE / 'own').describe()"
OF_CLOUD = "len(read_folder(HERE / 'pets').train)"
PREDICTED = "len(list(images_of([HERE / 'own' / 'cat'])))"
DENIED = "Permission denied; let this user read it (r; a folder: r and x)"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    tmp_path.chmod(0o755)
    write_tree(tmp_path / "own", {"cat": 10, "dog": 10})
    write_tree(tmp_path / "pets" / "train", {"cat": 20, "dog": 20})
    write_tree(tmp_path / "closed", {"owl": 10})
    yield tmp_path
    subprocess.run(["chmod", "-R", "u+rwX", tmp_path], check=True)  # to be removed


Said = Callable[[str], str]


@pytest.fixture(scope="module")
def other_user() -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process


@pytest.fixture
def said(other_user: "subprocess.Popen[str]", here: Path) -> Said:
    """Return what the other user finds for an expression, or its error."""

    def ask(expression: str) -> str:
        assert other_user.stdin is not None and other_user.stdout is not None
        other_user.stdin.write(json.dumps([str(here), expression]) + "\n")
        other_user.stdin.flush()
        found = json.loads(other_user.stdout.readline())
        assert isinstance(found, str)
        return found

    return ask


@pytest.mark.parametrize("mode", [0o644, 0o311], ids=["no x", "no r"])
@pytest.mark.parametrize(
    ("expression", "folder"),
    [
        *((TRAINED, "own/cat"), (COUNTED, "own/cat"), (PREDICTED, "own/cat")),
        *((TRAINED, "own"), (OF_CLOUD, "pets/train/cat"), (OF_CLOUD, "pets/train")),
        ("look_at(HERE / 'pets')", "pets/train/dog"),
    ],
)
def test_a_folder_that_may_not_be_read_is_named_in_one_line(
    expression: str, folder: str, mode: int, said: Said, here: Path
) -> None:
    (here / folder).chmod(mode)
    assert said(expression) == f"DataError: cannot read {folder}: {DENIED}"


@pytest.mark.parametrize("expression", [TRAINED, COUNTED, OF_CLOUD])
def test_a_folder_below_one_that_may_not_be_searched_is_named_in_one_line(
    expression: str, said: Said, here: Path
) -> None:
    top = "pets" if expression == OF_CLOUD else "own"
    (here / top).rename(here / "closed" / top)
    (here / top).symlink_to(Path("closed") / top)
    (here / "closed").chmod(0o600)
    folder = "pets/train" if expression == OF_CLOUD else "own"
    assert said(expression) == f"DataError: cannot read {folder}: {DENIED}"


@pytest.mark.parametrize("expression", [TRAINED, COUNTED, OF_CLOUD])
def test_a_class_behind_a_link_that_may_not_be_followed_is_refused_and_not_left_out(
    expression: str, said: Said, here: Path
) -> None:
    top = Path("pets/train" if expression == OF_CLOUD else "own")
    (here / top / "owl").symlink_to(here / "closed" / "owl")
    (here / "closed").chmod(0o600)
    assert said(expression) == (
        f"DataError: cannot read {top / 'owl'}, a link to {here / 'closed' / 'owl'}: "
        f"{DENIED}"
    )


@pytest.mark.parametrize("is_link", [False, True])
def test_an_image_that_may_not_be_read_is_left_out_of_a_nodes_own_and_named(
    is_link: bool, said: Said, here: Path
) -> None:
    image = here / "own" / "cat" / "0.png"
    if is_link:
        image.unlink()
        image.symlink_to(here / "closed" / "owl" / "0.png")
        (here / "closed").chmod(0o600)
    else:
        image.chmod(0)
    assert said(TRAINED) == str(
        (
            "1 of 20 images in own are left out: cannot read image own/cat/0.png: "
            f"{DENIED}",
        )
    )
    assert "1 unreadable and left out (cat/0.png)" in said(COUNTED)


def test_an_image_that_may_not_be_read_is_named_where_the_cloud_reads_it(
    said: Said, here: Path
) -> None:
    (here / "pets" / "train" / "cat" / "0.png").chmod(0)
    assert said(OF_CLOUD) == (
        f"DataError: cannot read image pets/train/cat/0.png: {DENIED}"
    )


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (
            "existing_folder(HERE / 'closed' / 'owl')",
            "StorageError: there is no folder",
        ),
        ("len(find_runs(HERE))", "0"),
    ],
)
def test_other_paths_that_may_not_be_looked_at_are_no_bug(
    expression: str, expected: str, said: Said, here: Path
) -> None:
    (here / "closed").chmod(0o600)
    assert said(expression).startswith(expected)
