"""A node with very many images of its own, within a small cap of memory."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from edge_site import edge_site, recipe
from transfer_site import CLOUD

from common.config import OwnImagesConfig, ProfileConfig
from common.data.datasets import open_left_out
from edge.daemon.node import NodeDaemon

pytestmark = pytest.mark.slow  # 100,000 files are written, opened twice and removed

NUM_IMAGES, NUM_VAL, CAP_MIB = 100_000, 2000, 500


def quick_folder() -> Path | None:
    """Name a folder in memory, if it has room: a disk may take minutes to remove."""
    place = Path("/dev/shm")
    if place.is_dir() and shutil.disk_usage(place).free > 2 * 2**30:
        return place
    return None


@pytest.fixture
def many() -> Iterator[Path]:
    """Class folders of digits that the cloud left out, each under other noise."""
    with tempfile.TemporaryDirectory(prefix="takt-", dir=quick_folder()) as name:
        write_digits(Path(name))
        yield Path(name)


def write_digits(folder: Path) -> None:
    source = open_left_out(CLOUD, seed=0)
    digits = source.read(np.arange(len(source.labels))).astype(np.int16)
    noise = np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir()
    for k in range(NUM_IMAGES):
        digit = k % len(digits)
        pixels = digits[digit] + noise.integers(-20, 21, digits[digit].shape)
        data = pixels.clip(0, 255).astype(np.uint8).tobytes()
        place = folder / str(source.labels[digit]) / f"{k}.pgm"
        place.write_bytes(b"P5 8 8 255\n" + data)


def test_a_node_with_100_000_own_images_stays_within_500_mib(
    many: Path, tmp_path: Path
) -> None:
    with edge_site(tmp_path / "site") as site:
        students = {"tiny": recipe(label_weight=0.3, learning_rate=0.3)}
        site.publish_transfer(num_val=40, students=students)
        config = site.join(
            "sensor",
            data=OwnImagesConfig(folder=many),
            profile=ProfileConfig(cpus=1, memory_mib=CAP_MIB, bandwidth_kib_s=100_000),
            cpu_budget_s=10.0,
        )
        NodeDaemon(config).once()
        assert site.gateway is not None
        (row,) = site.gateway.running.fleet.reports(node="sensor")
    report = row.report
    assert report.robust[0].num_images == NUM_VAL
    assert report.own_images == report.own_labelled == NUM_IMAGES - NUM_VAL
    assert "OOM-capped" not in report.message, report.message
    # A watchdog sees what was touched within one sample.
    most = CAP_MIB if report.cap.hard else 1.15 * CAP_MIB
    assert 0 < report.peak_memory_mib <= most
