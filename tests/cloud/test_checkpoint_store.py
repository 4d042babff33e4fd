"""Where a training keeps its state: a folder, or an object store, by its URL.

The object store is a real S3 server in this process; pyarrow speaks to it as it does
to any other.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.core import set_initial_no_auth_action_count
from moto.server import ThreadedMotoServer
from pyarrow import fs
from small_runs import small_run
from waiting import WAIT_S

from cloud.cluster.cleanup import processes_of
from cloud.cluster.local import local_cluster
from cloud.storage import StorageDir
from cloud.training.checkpoint_store import local_store, open_store
from cloud.training.job import train_teacher
from common.config import AttackConfig
from common.errors import ConfigError, StorageError
from common.models.files import load_model

EPOCHS = 12
ATTACK = AttackConfig(steps=3, step_size=0.06)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Run an S3 server with one bucket; give the options of its URLs."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "takt")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "takt")
        # Of 15: beside other work nothing moves for minutes.
        patch.setenv("RAY_worker_niceness", "0")
        client = boto3.client(
            "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1"
        )
        client.create_bucket(Bucket="teachers")
        client.close()
        yield f"?region=us-east-1&scheme=http&endpoint_override={host}:{port}"
    server.stop()


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a folder that is not there yet."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    options: str = request.getfixturevalue("s3")
    return f"s3://teachers/{tmp_path.name}{options}"


def test_what_was_written_last_is_read_again(url: str) -> None:
    store = open_store(url)
    store.prepare()
    inner = store.within("run")
    inner.prepare()
    for data in (b"longer than the next", b"new"):
        inner.write("file", data)
        assert inner.read("file") == data
    assert inner.read("other") is None


def test_preparing_a_store_leaves_nothing_but_the_folder(tmp_path: Path) -> None:
    local_store(tmp_path / "store").prepare()
    assert [path.name for path in tmp_path.rglob("*")] == ["store"]


def test_a_missing_bucket_is_reported_in_one_line_with_the_fix(s3: str) -> None:
    with pytest.raises(
        StorageError, match=r"s3://nowhere/x: .*'nowhere' not found"
    ) as e:
        open_store(f"s3://nowhere/x{s3}").prepare()
    assert "make the bucket" in str(e.value)
    assert "\n" not in str(e.value)


def test_credentials_that_open_nothing_are_reported_in_one_line_with_the_fix(
    s3: str,
) -> None:
    refuse = set_initial_no_auth_action_count(0)  # the server checks from now on
    with pytest.raises(StorageError, match="ACCESS_DENIED") as e:
        refuse(open_store(f"s3://teachers/x{s3}").prepare)()
    assert "credentials that may write there" in str(e.value)
    assert "\n" not in str(e.value)


def test_a_folder_that_may_not_be_written_is_reported_in_one_line() -> None:
    with pytest.raises(StorageError, match="cannot write to file:///proc/x") as e:
        open_store("file:///proc/x").prepare()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("ftp://host/x", "expected s3://BUCKET/FOLDER"),
        ("teachers/x", "expected s3://BUCKET/FOLDER"),
        ("s3://[x/y", "expected s3://BUCKET/FOLDER"),
        ("s3://teachers/x?rgion=a", "rgion"),
        ("s3://", "names no folder"),
        ("s3://key:secret@teachers/x", "leave them out"),
    ],
)
def test_what_is_no_store_is_refused_with_what_one_looks_like(
    wrong: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as e:
        open_store(wrong)
    assert "secret" not in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_killed_worker_resumes_from_an_object_store_and_so_does_another_head(
    s3: str, tmp_path: Path
) -> None:
    config = small_run(
        ATTACK,
        limit=300,
        model="cnn_small",
        epochs=EPOCHS,
        batch_size=32,
        store=f"s3://teachers/trained{s3}",
    )
    killed: list[int] = []
    with local_cluster() as cluster:

        def disturb() -> None:
            root = open_store(config.teacher.store or "")
            end = time.monotonic() + WAIT_S
            while not killed and time.monotonic() < end:
                for folder in root.filesystem.get_file_info(
                    fs.FileSelector(root.folder, allow_not_found=True)
                ):
                    lines = root.within(folder.base_name).read("progress.jsonl") or b""
                    if lines.count(b"\n") >= 3:
                        workers = [
                            process.pid
                            for process in processes_of(cluster.folder)
                            if "RayTrainWorker" in " ".join(process.cmdline())
                        ]
                        killed.append(workers[-1])
                        os.kill(workers[-1], signal.SIGKILL)
                        return
                time.sleep(0.05)

        disturbance = threading.Thread(target=disturb)
        disturbance.start()
        card = train_teacher(config, StorageDir(tmp_path / "first"))
        disturbance.join()
        again = train_teacher(config, StorageDir(tmp_path / "second"))
    assert len(killed) == 1
    assert again == card
    for head in ("first", "second"):
        lines = (tmp_path / head / "progress.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [*range(1, EPOCHS + 1)]
        load_model(tmp_path / head / "teacher.safetensors")
        assert not any((tmp_path / head / "checkpoints").iterdir())
    first, second = ((tmp_path / h / "progress.jsonl") for h in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()  # no epoch was trained twice
