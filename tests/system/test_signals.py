"""Verbs that a signal stops: their code, their record, and nothing left behind.

`takt simulate` has its own tests beside its other ones (test_simulate.py).
"""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from compare_site import Site
from edge_site import edge_site, recipe
from stopping import read_until, stop
from waiting import WAIT_S, until

from cloud.storage import StorageDir
from common.durable import locked
from edge.config import save_edge_config
from edge.state import read_status

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
OPTIONS = [
    part
    for value in (
        "dataset.limit=200",
        "teacher.epochs=1",
        "teacher.num_workers=1",
        'teacher.model="cnn_small"',
        "knowledge.num_actors=1",
    )
    for part in ("--set", value)
]
ENDLESS = ["--set", "teacher.epochs=5000"]
Ready = Callable[["subprocess.Popen[str]"], None]


def cloud(verb: str, storage: Path, *more: str) -> list[str]:
    options = ["--config", "digits-same", "--storage", str(storage)]
    return ["cloud", verb, *options, *OPTIONS, *more]


def there(path: Path) -> Ready:
    return lambda process: until(str(path), path.exists, alive=process)


def said(words: str) -> Ready:
    return lambda process: read_until(words, process)


def loaded(library: str) -> Ready:
    """Wait until a process has mapped a library: what it says comes at its end."""

    def is_mapped(process: "subprocess.Popen[str]") -> bool:
        return library in Path(f"/proc/{process.pid}/maps").read_text()

    return lambda process: until(library, lambda: is_mapped(process), alive=process)


def command(process: psutil.Process) -> str:
    """Return what a process was called with; empty for one that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie counts as one
        return " ".join(process.cmdline())
    return ""


def has_child(module: str) -> Ready:
    def started(process: "subprocess.Popen[str]") -> bool:
        family = psutil.Process(process.pid).children(recursive=True)
        return any(module in command(child) for child in family)

    return lambda process: until(module, lambda: started(process), alive=process)


def stopped(
    verb: list[str], ready: Ready, number: signal.Signals, reaches: str, folder: Path
) -> int:
    """Stop a verb when it is ready, and check its last line; return how it ended."""
    argv = [sys.executable, "-m", "deploy.cli.main", *verb]
    code, err = stop(argv, ready, number, reaches=reaches, folder=folder)
    assert "Traceback" not in err, err
    if verb[0] != "edge":  # whose daemon logs each of its states instead
        assert err.splitlines()[-1].startswith(f"takt: stopped by {number.name}"), err
    return code


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the storage folder of a whole, small cloud job."""
    storage = tmp_path_factory.mktemp("cloud") / "storage"
    verb = cloud("run", storage, "--no-serve")
    subprocess.run(
        [sys.executable, "-m", "deploy.cli.main", *verb], check=True, timeout=WAIT_S
    )
    return storage


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "reaches", "code"),
    [(INT, "self", 130), (HUP, "group", 143), (TERM, "all", 143)],
)
def test_a_training_is_stopped_and_keeps_its_checkpoint(
    number: signal.Signals,
    reaches: str,
    code: int,
    tmp_path: Path,
    short_folder: Path,
) -> None:
    storage = StorageDir(tmp_path / "storage")
    verb = cloud("train", storage.root, *ENDLESS)
    ready = there(storage.progress)
    assert stopped(verb, ready, number, reaches, short_folder) == code
    assert list(storage.checkpoints.iterdir())
    assert not storage.weights.exists()


@pytest.mark.ray
@pytest.mark.slow
def test_a_start_of_ray_is_stopped(tmp_path: Path, short_folder: Path) -> None:
    verb = cloud("train", tmp_path / "storage", *ENDLESS)
    ready = has_child("gcs_server")
    assert stopped(verb, ready, TERM, "group", short_folder) == 143


@pytest.mark.ray
@pytest.mark.slow
def test_a_whole_cloud_job_is_stopped_and_says_so_to_those_who_wait(
    tmp_path: Path, short_folder: Path
) -> None:
    storage = StorageDir(tmp_path / "storage")
    verb = cloud("run", storage.root, *ENDLESS)
    ready = said("serving channel")
    assert stopped(verb, ready, TERM, "group", short_folder) == 143
    assert "stopped by a signal" in json.loads(storage.failure.read_text())["message"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "reaches", "code"), [(INT, "group", 130), (TERM, "all", 143)]
)
def test_a_gateway_is_stopped(
    number: signal.Signals,
    reaches: str,
    code: int,
    published: Path,
    short_folder: Path,
) -> None:
    verb = cloud("serve", published)
    ready = said("serving channel")
    assert stopped(verb, ready, number, reaches, short_folder) == code
    assert not StorageDir(published).failure.exists()


@pytest.mark.ray
@pytest.mark.slow
def test_an_extraction_is_stopped(
    published: Path, tmp_path: Path, short_folder: Path
) -> None:
    storage = StorageDir(shutil.copytree(published, tmp_path / "storage"))
    storage.knowledge_progress.unlink()
    longer = 'knowledge.contents=["soft_labels","deltas"]'
    verb = cloud("extract", storage.root, "--set", longer)
    verb += ["--set", "knowledge.attack.steps=1000"]
    ready = has_child("ray::")
    assert stopped(verb, ready, HUP, "group", short_folder) == 143


@pytest.mark.ray
@pytest.mark.slow
def test_a_publish_is_stopped_and_leaves_the_release_as_it_was(
    published: Path, short_folder: Path
) -> None:
    storage = StorageDir(published)
    before = sorted(storage.repository.rglob("*"))
    verb = cloud("publish", published, "--force")
    ready = loaded("cryptography/hazmat/bindings/_rust")
    with locked(storage.repository / ".lock"):  # it gets no further than this
        assert stopped(verb, ready, TERM, "group", short_folder) == 143
    assert sorted(storage.repository.rglob("*")) == before


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "reaches", "code"), [(INT, "self", 130), (TERM, "group", 143)]
)
def test_an_evaluation_is_stopped(
    number: signal.Signals,
    reaches: str,
    code: int,
    published: Path,
    short_folder: Path,
) -> None:
    model = StorageDir(published).weights
    verb = ["evaluate", str(model), "--images", "360", "--eps", "0.001"]
    assert stopped(verb, loaded("libtorch"), number, reaches, short_folder) == code


@pytest.mark.slow
def test_the_record_of_a_run_elsewhere_says_that_it_was_stopped(
    tmp_path: Path, short_folder: Path
) -> None:
    storage, runs = tmp_path / "storage", tmp_path / "runs"
    storage.mkdir()
    verb = cloud("report", storage, "--nodes-dir", str(tmp_path))
    verb += ["--runs-dir", str(runs)]
    assert stopped(verb, said("wait for a job"), TERM, "group", short_folder) == 143
    (run,) = runs.iterdir()
    tree = json.loads((run / "result.json").read_text())
    assert tree["status"] == "failed" and tree["error"]["code"] == 143


@pytest.mark.slow
def test_a_report_is_stopped_and_leaves_the_page_as_it_was(
    tmp_path: Path, short_folder: Path
) -> None:
    sample = Path(__file__).parents[1] / "support" / "sample_result.json"
    (tmp_path / "result.json").write_bytes(sample.read_bytes())
    (tmp_path / "report.html").write_text("as it was")
    verb = ["report", str(tmp_path)]
    assert stopped(verb, loaded("ft2font"), HUP, "group", short_folder) == 143
    assert (tmp_path / "report.html").read_text() == "as it was"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "reaches", "code"), [(INT, "group", 130), (TERM, "self", 143)]
)
def test_a_comparison_is_stopped(
    number: signal.Signals,
    reaches: str,
    code: int,
    tmp_path: Path,
    short_folder: Path,
) -> None:
    site = Site(tmp_path)
    text = site.grid.read_text()
    site.grid.write_text(text.replace("tiny = 1.0", "tiny = 10000.0"))
    verb = ["compare", "--grid", str(site.grid), "--out", str(site.out)]
    verb += ["--work", str(site.work), "--workers", "1"]
    ready = has_child("deploy.compare.worker")
    assert stopped(verb, ready, number, reaches, short_folder) == code
    assert [path.name for path in site.out.parent.glob("*.json")] == []


@pytest.fixture
def distilling_node(tmp_path: Path) -> Iterator[Path]:
    """Give the config of a node whose release takes long to distil."""
    with edge_site(tmp_path) as site:
        config = site.join("sensor")
        path = tmp_path / "edge.toml"
        save_edge_config(config, path)
        site.publish_digits(students={"tiny": recipe(epochs=100_000)})
        yield path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "number", "reaches", "code"),
    [
        ("run", TERM, "group", 0),
        ("run", HUP, "self", 0),
        ("once", INT, "group", 130),
        ("once", TERM, "all", 143),
    ],
)
def test_a_node_that_distils_is_stopped(
    verb: str,
    number: signal.Signals,
    reaches: str,
    code: int,
    distilling_node: Path,
    short_folder: Path,
) -> None:
    state = distilling_node.parent / "nodes" / "sensor"

    def distils() -> bool:
        return (state / "status.json").exists() and read_status(state).epoch > 0

    def ready(process: "subprocess.Popen[str]") -> None:
        until("an epoch", distils, alive=process)

    argv = ["edge", verb, "--config", str(distilling_node)]
    assert stopped(argv, ready, number, reaches, short_folder) == code
    assert read_status(state).state == "stopped"
