"""A data set that a node lacks: it is told of edge.toml, which has the key for it."""

from pathlib import Path

import pytest
from release_drafts import draft

from common.config import DatasetConfig, OwnImagesConfig
from common.data.own_images import in_ram
from common.data.sources import NODE_OPTION, default_data_dir, open_sources
from common.errors import DataError
from edge.distill.sources.own import reader
from edge.distill.sources.released import released_images

MNIST = draft(dataset="mnist", limit=100)
SET = 'set data_dir = "DIR" in edge.toml'


def advice(error: "pytest.ExceptionInfo[DataError]") -> str:
    return str(error.value).rpartition("; ")[2]


def test_a_node_that_draws_images_is_told_of_the_key_in_edge_toml(
    tmp_path: Path,
) -> None:
    files = DatasetConfig(name="mnist", data_dir=tmp_path)
    with pytest.raises(DataError) as refused:
        reader(OwnImagesConfig(images=20), files, MNIST)(in_ram)
    assert advice(refused) == f"{SET} with these files"


def test_a_node_of_the_clouds_images_is_told_of_the_key_in_edge_toml(
    tmp_path: Path,
) -> None:
    files = DatasetConfig(name="mnist", data_dir=tmp_path)
    with pytest.raises(DataError) as refused:
        released_images(files, MNIST, tmp_path)
    assert advice(refused) == f"{SET} with these files"


def test_a_node_without_the_clouds_own_images_is_told_which_folder_it_lacks() -> None:
    with pytest.raises(DataError) as refused:
        released_images(DatasetConfig(), draft(dataset="folder"), Path())
    assert advice(refused).startswith(f"{SET}, a copy of the cloud's folder with")


def test_a_folder_that_lies_one_level_off_is_given_as_a_line_of_edge_toml(
    tmp_path: Path,
) -> None:
    (tmp_path / "pets" / "train").mkdir(parents=True)
    config = DatasetConfig(name="folder", data_dir=tmp_path)
    with pytest.raises(DataError) as refused:
        open_sources(config, None, option=NODE_OPTION)
    assert advice(refused) == f'set data_dir = "{tmp_path}/pets" in edge.toml'


def test_a_node_whose_user_has_no_home_is_told_of_the_key_in_edge_toml(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(DataError) as refused:
        default_data_dir(NODE_OPTION)
    assert advice(refused) == f"{SET}, or set HOME"
