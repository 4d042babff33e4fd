"""--data-dir and --pki: a folder that would not be looked at is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from compare_site import Site
from release_drafts import draft
from small_runs import small_card
from typed_verbs import typed

from common.errors import ConfigError, StorageError
from common.release import encode_manifest
from deploy.cli.main import app
from deploy.cli.options import settings_of
from deploy.compare.run import Choice, run_compare
from deploy.evaluation.single import dataset_of
from deploy.runtime.progress import Display
from deploy.runtime.terminal import make_console
from deploy.selection.student import subject_of_release

TO_NO_PURPOSE = "data set digits needs no --data-dir; for your own images: takt init"


def _of_a_config(folder: Path) -> None:
    settings_of("digits", folder)


def _of_a_model(folder: Path) -> None:
    dataset_of(small_card(), folder)


def _of_a_release(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(encode_manifest(draft()))
    subject_of_release(folder, folder)


def _of_a_grid(folder: Path) -> None:
    run_compare(
        str(Site(folder).grid),
        out=folder / "rows.json",
        work=folder / "work",
        data_dir=folder,
        choice=Choice(),
        num_workers=1,
        display=Display(make_console()),
    )


@pytest.mark.parametrize("give", [_of_a_config, _of_a_model, _of_a_release, _of_a_grid])
def test_a_data_folder_is_refused_for_a_data_set_that_comes_with_takt(
    give: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=TO_NO_PURPOSE):
        give(tmp_path)


def test_a_data_folder_in_the_config_is_refused_by_the_name_of_its_key() -> None:
    with pytest.raises(ConfigError, match=r"digits needs no dataset\.data_dir; for"):
        settings_of("digits", assign=["dataset.data_dir=photos"])


def test_a_deployment_names_its_data_folder_whatever_the_data_set_is() -> None:
    settings, _ = settings_of("digits", Path("/data"), of_deployment=True)
    assert settings.dataset.data_dir == Path("/data")


def test_a_folder_of_certificates_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"there is no folder {tmp_path}/nope"):
        typed(app, "doctor", "--pki", tmp_path / "nope")


def test_an_export_into_a_folder_is_refused_before_the_student_is_looked_at(
    tmp_path: Path,
) -> None:
    with pytest.raises(StorageError, match="Is a directory; a folder has that name"):
        typed(app, "export", tmp_path / "none.safetensors", "-o", tmp_path)
