"""How a child of the daemon ended: what its exit status and its last line stand for."""

import shutil
import threading
from collections.abc import Iterator
from concurrent import futures
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from edge_site import CHANNEL, EdgeSite, edge_site, recipe

from cloud.pki.authority import Authority
from common.clock import utc_now
from common.errors import (
    BUG,
    TERMINATED,
    ClockError,
    Interrupted,
    MemoryCapError,
    TaktError,
    public_errors,
)
from edge.daemon.job_setup import make_job
from edge.jobs.runner import Distillation, error_of_child, own_error


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    with edge_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.mark.parametrize(
    "kind",
    [k for k in public_errors() if k not in (TaktError, Interrupted, MemoryCapError)],
)
def test_an_error_of_a_child_is_the_same_error_here(kind: type[TaktError]) -> None:
    assert type(error_of_child(kind.exit_code, "x")) is kind


@pytest.mark.parametrize("code", [1, 99, BUG, Interrupted.exit_code, TERMINATED, -9])
def test_any_other_status_of_a_child_is_a_crash(code: int) -> None:
    assert own_error(code) is None


@pytest.fixture
def outdated(site: EdgeSite, tmp_path: Path) -> Iterator[str]:
    """Serve nothing with a certificate of the project that has ended."""
    pki = shutil.copytree(site.storage.pki, tmp_path / "pki")
    for name in ("server.key", "server.crt"):
        (pki / name).unlink()
    long_ago = utc_now() - timedelta(days=2000)
    found = Authority(pki, clock=lambda: long_ago).server_credentials()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    credentials = grpc.ssl_server_credentials([(found.key, found.certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_child_that_is_refused_for_its_clock_has_not_crashed(
    site: EdgeSite, outdated: str, tmp_path: Path
) -> None:
    node = site.join("sensor")
    site.publish_digits(students={"tiny": recipe(method="adaad")})
    with site.syncing(node) as (_, sync):
        release = sync.check()
        assert release is not None
        folder = sync.pull(release, "tiny", lambda state, progress: None)
    job = make_job(
        node.model_copy(update={"gateway": outdated}),
        site.repository.manifest(CHANNEL),
        folder=folder,
        work=tmp_path,
    )
    distillation = Distillation(
        node.profile,
        node=node.node,
        cap_method=None,
        stop=threading.Event(),
        on_progress=lambda point, usage: None,
    )
    with pytest.raises(ClockError, match="set this machine's clock"):
        distillation.run(job, default_batch_size=64)
