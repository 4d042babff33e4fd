"""`takt init`: a config for one's own images that a run can begin with."""

from pathlib import Path

import pytest
from class_folders import write_tree

from common.data.datasets import load_dataset
from common.errors import ConfigError, DataError
from deploy.cli.main import invoke
from deploy.first_config import CONFIG, FolderSize, config_text, image_size
from deploy.runtime.settings import load_run_config

FEW = FolderSize(
    classes=("cat", "dog"),
    num_images=70,
    has_test=False,
    smallest=30,
    is_grey=True,
    side=20,
    is_uniform=True,
)


def written(tmp_path: Path, size: FolderSize) -> Path:
    path = tmp_path / CONFIG
    path.write_text(config_text(tmp_path / "photos", size, path))
    return path


def test_the_config_of_a_folder_is_read_and_finds_its_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / 'my "photos" é'
    write_tree(data / "train", {"cat": 40, "dog": 30}, mode="RGB", size=9)
    folder = tmp_path / "first"
    assert invoke(["init", str(folder), "--data", str(data)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("70 colour images of 2 classes, 30 of the smallest")
    assert f"takt simulate --config {folder / CONFIG}" in second
    config, text = load_run_config(str(folder / CONFIG))
    assert f"# A first run: takt simulate --config {folder / CONFIG}\n" in text
    assert config.channel == "my-photos"
    dataset = load_dataset(config.dataset, seed=0)
    assert dataset.sample_shape == (3, 9, 9)
    assert dataset.class_names == ("cat", "dog")


def test_many_large_images_are_made_smaller_and_fewer(tmp_path: Path) -> None:
    many = FEW._replace(num_images=50_000, side=480, is_uniform=False)
    config, _ = load_run_config(str(written(tmp_path, many)))
    assert config.dataset.image_size == 64
    assert config.dataset.limit is not None and config.dataset.limit < 2000
    assert config.dataset.limit * 64**2 <= 8000 * 28**2


def test_few_images_are_passed_over_more_often_in_shifted_views(tmp_path: Path) -> None:
    few, _ = load_run_config(str(written(tmp_path, FEW)))
    many, _ = load_run_config(str(written(tmp_path, FEW._replace(num_images=6000))))
    assert few.knowledge.num_views == 9 and many.knowledge.num_views == 1
    assert few.students["tiny"].epochs > many.students["tiny"].epochs
    assert few.students["tiny"].batch_size < many.students["tiny"].batch_size


@pytest.mark.parametrize(
    ("side", "is_uniform", "wanted"),
    [(20, True, 20), (20, False, 16), (100, True, 64), (5, True, 8)],
)
def test_images_keep_their_size_or_get_a_usual_one_below(
    side: int, is_uniform: bool, wanted: int
) -> None:
    assert image_size(FEW._replace(side=side, is_uniform=is_uniform)) == wanted


def test_a_config_that_is_there_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    write_tree(tmp_path / "data" / "train", {"cat": 20, "dog": 20})
    arguments = ["init", str(tmp_path), "--data", str(tmp_path / "data")]
    path = tmp_path / CONFIG
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"is there already; .* --force"):
        invoke(arguments)
    assert path.read_text() == "mine"
    assert invoke([*arguments, "--force"]) == 0
    assert path.read_text() != "mine"


def test_class_folders_in_the_wrong_place_are_refused_with_the_fix(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path / "data", {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match="holds class folders, expected them in"):
        invoke(["init", str(tmp_path / "new"), "--data", str(tmp_path / "data")])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("given", ["photos/train", "."])
def test_advice_on_the_images_names_the_option_of_this_verb(
    given: str, tmp_path: Path
) -> None:
    write_tree(tmp_path / "photos" / "train", {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match=rf"(: |give )--data {tmp_path}/photos$"):
        invoke(["init", str(tmp_path / "new"), "--data", str(tmp_path / given)])


def test_a_folder_without_images_is_told_where_they_are_looked_for(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected images as .*/empty/train/CLASS/IM"):
        invoke(["init", str(tmp_path / "new"), "--data", str(tmp_path / "empty")])


def test_a_path_that_would_break_the_comment_in_which_it_stands_is_escaped(
    tmp_path: Path,
) -> None:
    text = config_text(tmp_path, FEW, Path("two\nlines/takt.toml"))
    assert "--config two\\nlines/takt.toml\n" in text
