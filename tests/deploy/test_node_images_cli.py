"""`takt edge images`: what a node holds and what leaves it, in plain words."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from deploy.cli.edge import app
from edge.config import EdgeConfig, load_edge_config
from edge.daemon.new_images import NewImages
from edge.state import Current, StateDir

EDGE = """
node = "porch"
student = "small"
gateway = "cloud.example:7443"

[profile]
cpus = 0.5
memory_mib = 600
bandwidth_kib_s = 512
"""


def says(folder: Path, data: str) -> list[str]:
    """Run the verb on an edge.toml with this table [data]."""
    path = folder / "edge.toml"
    path.write_text(EDGE + data)
    done = CliRunner().invoke(app, ["images", "--config", str(path)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output.splitlines()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, count in {"cat": 3, "dog": 2, "unlabelled": 4}.items():
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for index in range(count):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "images" / "dog" / "half.png").write_bytes(b"\x89PNG")
    (tmp_path / "images" / "dog" / "notes.txt").write_text("no image")
    return tmp_path


def test_classes_unlabelled_and_unreadable_images_are_counted(images: Path) -> None:
    first, *_ = says(images, '[data]\nfolder = "images"\n')
    folder = images / "images"
    assert first == (
        f"porch has in {folder} 10 images: 5 of 2 classes (cat 3, dog 2), "
        "4 unlabelled, 1 unreadable and left out (dog/half.png)"
    )


def test_a_folders_name_neither_steers_the_terminal_nor_makes_a_line_of_its_own(
    images: Path,
) -> None:
    (images / "images" / "dog").rename(images / "images" / "d\x1b[2J\nog")
    lines = says(images, '[data]\nfolder = "images"\n')
    assert lines[1].startswith("no image leaves") and len(lines) == 2
    assert r"d\x1b[2J\nog 2" in lines[0] and r"(d\x1b[2J\nog/half.png)" in lines[0]


def test_shared_images_are_said_to_leave_the_device_and_where_to(images: Path) -> None:
    lines = says(images, '[data]\nfolder = "images"\nshare_images = true\n')
    assert lines[-1].startswith("images leave this device")
    assert "gateway cloud.example:7443" in lines[-1]


@pytest.mark.parametrize("data", ["", '[data]\nfolder = "images"\n'])
def test_without_sharing_it_is_said_that_none_does(data: str, images: Path) -> None:
    assert says(images, data)[-1].startswith("no image leaves this device")


def test_drawn_images_are_said_to_be_drawn(tmp_path: Path) -> None:
    first, *_ = says(tmp_path, "[data]\nimages = 200\nclasses = [2, 5]\n")
    assert "200 images of classes 2, 5, drawn from the release's data set" in first


def distilled(images: Path) -> EdgeConfig:
    """Note a distillation with the images that are there now."""
    config = load_edge_config(images / "edge.toml")
    state = StateDir(config.state_dir)
    new = NewImages(config.data, state)
    now = new.look()
    new.keep(now, has_failed=False)
    state.write_current(
        Current(version=3, data_sha256=now.table_sha256, images_sha256=now.files_sha256)
    )
    return config


def test_images_since_the_last_distillation_are_counted(images: Path) -> None:
    data = '[data]\nfolder = "images"\nretrain_after = 50\n'
    says(images, data)
    distilled(images)
    (images / "images" / "cat" / "new.png").write_bytes(b"\x89PNG")
    line = says(images, data)[1]
    assert line.startswith("1 image new or changed since the distillation of release 3")
    assert "50 start one" in line


def test_after_a_failed_distillation_the_images_are_said_to_be_new_still(
    images: Path,
) -> None:
    data = '[data]\nfolder = "images"\nretrain_after = 50\n'
    says(images, data)
    state = StateDir(distilled(images).state_dir)
    failed = {"version": 4, "outcome": "failed", "tried_sha256": "of one more"}
    state.write_current(state.read_current().model_copy(update=failed))
    (images / "images" / "cat" / "new.png").write_bytes(b"\x89PNG")
    assert says(images, data)[1] == (
        "1 image new or changed since the last distillation with a result (that of "
        "release 4: failed); it is tried again when one of its images is mended or "
        "gone, or with 50 more (retrain_after)"
    )


def test_a_missing_folder_is_said_in_one_line(tmp_path: Path) -> None:
    from common.errors import DataError

    with pytest.raises(DataError) as e:
        says(tmp_path, '[data]\nfolder = "absent"\n')
    assert "absent" in str(e.value) and "\n" not in str(e.value)
