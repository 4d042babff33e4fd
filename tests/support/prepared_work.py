"""A distillation that is taken as done: its work folder, as the child leaves it.

So a daemon goes through all of its steps without loading torch.
"""

from edge_site import CHANNEL, EPS, EdgeSite

from common.records import Cap, CpuSeconds, Evaluation
from edge.config import EdgeConfig
from edge.credentials import Certificates
from edge.daemon.job_setup import make_job, prepare_work_dir, serving_student
from edge.daemon.new_images import NewImages
from edge.jobs.job import RESULT, DistilResult
from edge.jobs.runner import USAGE, ChildUsage
from edge.state import STUDENT, StateDir, sha256_of


def prepare(
    site: EdgeSite,
    node: EdgeConfig,
    *,
    robust_accuracy: float,
    flags: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    release_robust: float | None = None,
) -> None:
    """Make what the child leaves when it is done with the newest release."""
    state = StateDir(node.state_dir)
    state.create()
    with site.syncing(
        node.model_copy(update={"state_dir": site.folder / "probe"}),
        certificates=Certificates.of(state.identity),
        root_json=site.repository.root_json(),
    ) as (_, sync):
        release = sync.check()
        assert release is not None
    manifest = site.repository.manifest(CHANNEL)
    work = state.work / str(release.version)
    folder = state.releases / str(release.version)
    serving = serving_student(node, state.read_current().promoted)
    job = make_job(node, manifest, folder=folder, work=work, serving=serving)
    prepare_work_dir(release, job, NewImages(node.data, state).look())
    weights = f"weights of {release.version}".encode()
    (work / STUDENT).write_bytes(weights)
    measured = Evaluation(
        attack="pgd",
        version="pgd-3",
        norm="Linf",
        eps=EPS,
        num_images=1000,
        accuracy=robust_accuracy,
        seed=0,
    )
    on_release: tuple[Evaluation, ...] = ()
    if release_robust is not None:
        on_release = (measured.model_copy(update={"accuracy": release_robust}),)
    result = DistilResult(
        student="tiny",
        architecture="cnn_tiny",
        num_parameters=1000,
        method="takt",
        seed=node.seed,
        batch_size=64,
        epochs=2,
        best_epoch=2,
        clean_accuracy=0.9,
        robust=(measured,),
        release_robust=on_release,
        curve=(),
        cpu_s=CpuSeconds(distil=1.0, attack=0.5, evaluate=0.1),
        flags=flags,
        notes=notes,
        weights_sha256=sha256_of(work / STUDENT),
    )
    usage = ChildUsage(cap=Cap(method="soft", hard=False), peak_memory_mib=300)
    (work / USAGE).write_text(usage.model_dump_json())
    (work / RESULT).write_text(result.model_dump_json())


def outcomes(site: EdgeSite, node: EdgeConfig) -> list[str]:
    """List what the gateway was told by this test's node."""
    assert site.gateway is not None
    reports = [row.report for row in site.gateway.running.fleet.reports()]
    return [report.outcome for report in reports if report.seed == node.seed]
