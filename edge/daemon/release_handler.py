"""Handles one release: pull, distil in the capped child, decide, promote, report.

Each step is durable and is skipped when a restart finds it done. current.json is
replaced once, when everything that it names is in place. Not here: when a release is
handled, and what follows on an outage (edge/daemon/node.py).
"""

import logging
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.durable import storing
from common.errors import (
    ConfigError,
    IdentityError,
    Interrupted,
    LinkError,
    StorageError,
    StudentError,
    TaktError,
    TrustError,
)
from common.release import MANIFEST, Manifest, decode_manifest, recipe_of
from edge.config import EdgeConfig
from edge.daemon.job_setup import make_job, prepare_work_dir, serving_student
from edge.daemon.new_images import NewImages, Snapshot
from edge.daemon.promotion import (
    decide,
    prune_students,
    release_robust_accuracy,
    robust_accuracy,
    store_student,
)
from edge.daemon.reports import Outbox, make_report
from edge.daemon.status import StatusReporter
from edge.jobs.exporting import run_export
from edge.jobs.job import DistilResult, EpochPoint
from edge.jobs.runner import JOB, ChildUsage, Distillation
from edge.link.client import Link
from edge.releases.sync import Release, ReleaseSync
from edge.state import Current, Promoted, StateDir

logger = logging.getLogger(__name__)


class ReleaseHandler:
    """Handles releases, one after the other."""

    def __init__(
        self,
        config: EdgeConfig,
        state: StateDir,
        reporter: StatusReporter,
        outbox: Outbox,
        *,
        stop: threading.Event,
    ) -> None:
        """Continue from current.json.

        Raises:
            StorageError: the disk is broken.
        """
        self._config = config
        self._state = state
        self._reporter = reporter
        self._outbox = outbox
        self._stop = stop
        self._images = NewImages(config.data, state)
        self._tried: set[Release] = set()  # since this daemon started
        self._usage: ChildUsage | None = None  # of the distillation under way
        self.current = state.read_current()
        outbox.enqueue(self.current)
        self._publish_current()

    def is_handled(self, release: Release, *, any_new: bool = False) -> bool:
        """Check whether nothing is left to do.

        A failure counts until a restart, or until the node's own images are others.

        Args:
            release: that the channel has now.
            any_new: one new image of the node's own is something to do; else it takes
                `retrain_after` of them.
        """
        current = self.current
        found = (current.channel, current.version, current.manifest_sha256)
        if found != tuple(release) or current.student != self._config.student:
            return False
        if current.outcome == "failed" and release not in self._tried:
            return False
        return not self._images.is_due(current, any_new=any_new)

    def handle(
        self, release: Release, link: Link, sync: ReleaseSync
    ) -> TaktError | None:
        """Handle a release; its outcome is promoted, kept, refused or failed.

        Returns:
            The reason for refused or failed, which the report has as well.

        Raises:
            LinkError: the gateway could not be reached within the deadline.
            TrustError: the release is not what was signed.
            IdentityError: the gateway refuses this node, or is not the project's.
            StorageError: the disk is full or broken; nothing is lost.
            Interrupted: `stop` was set; the checkpoint is kept.
        """
        self._reporter.update("pulling", version=release.version, epoch=0, epochs=0)
        work = self._state.work / str(release.version)
        images = self._images.look()  # those that arrive from now on are new
        conclusion = self._attempt(release, work, link, sync, images)
        self._reporter.update("promoting")
        has_failed = conclusion.result is None
        seen = self.current.images_sha256 if has_failed else images.files_sha256
        current = Current(
            channel=release.channel,
            version=release.version,
            manifest_sha256=release.manifest_sha256,
            student=self._config.student,
            outcome=conclusion.outcome,
            message=conclusion.message,
            notes=() if conclusion.result is None else conclusion.result.notes,
            data_sha256=images.table_sha256,
            images_sha256=seen,
            tried_sha256=images.files_sha256 if has_failed else None,
            promoted=conclusion.promoted or self.current.promoted,
        )
        report = make_report(
            current,
            profile=self._config.profile,
            result=conclusion.result,
            usage=self._usage,
            seed=self._config.seed,
            pulled_bytes=link.pulled_bytes,
        )
        with storing(work):
            work.mkdir(exist_ok=True)
        self._outbox.draft(report, current)
        self._images.keep(images, has_failed=has_failed)
        self._state.write_current(current)
        self.current = current
        self._tried.add(release)
        self._outbox.enqueue(current)
        self._clean_up(release, sync)
        self._publish_current()
        return conclusion.failure

    def _attempt(
        self,
        release: Release,
        work: Path,
        link: Link,
        sync: ReleaseSync,
        images: Snapshot,
    ) -> "_Conclusion":
        """Pull, distil and decide; return what is final, raise what may pass."""
        self._usage = None

        def pulling(state: str, progress: float) -> None:
            num_bytes = link.pulled_bytes
            self._reporter.update(state, progress=progress, pulled_bytes=num_bytes)

        try:
            folder = sync.pull(release, self._config.student, pulling)
        except ConfigError as e:  # no such recipe
            return _Conclusion("failed", str(e), failure=e)
        with storing(folder):
            manifest = decode_manifest((folder / MANIFEST).read_bytes())
        try:
            result = self._distil(release, manifest, folder, work, images)
        except (Interrupted, StorageError, LinkError, IdentityError):
            raise  # the last two come from a child that asks the live teacher
        except TrustError as e:
            return _Conclusion("refused", str(e), failure=e)
        except TaktError as e:
            self._check_running(e)
            return _Conclusion("failed", str(e), failure=e)
        for note in result.notes:
            logger.warning("%s", note)
        serving = self.current.promoted
        outcome, message = decide(
            result,
            manifest,
            serving,
            max_forgetting=self._config.max_forgetting,
        )
        if self._usage is not None and self._usage.halved_to is not None:
            recipe = recipe_of(manifest, self._config.student)
            halved = f"from {recipe.batch_size} to {self._usage.halved_to}"
            message = f"OOM-capped: batch halved {halved}; {message}"
        if outcome == "promoted":
            self._reporter.update("promoting")
            promoted = store_student(self._state, work, result, manifest, serving)
            message += self._export(promoted)
            return _Conclusion(outcome, message, result=result, promoted=promoted)
        failure = StudentError(message) if outcome == "refused" else None
        return _Conclusion(outcome, message, result=result, failure=failure)

    def _export(self, promoted: Promoted) -> str:
        """Write the ONNX files that edge.toml wants, before the student serves.

        They lie in its folder, and so change with it. One that cannot be made does not
        keep the student from being promoted.

        Returns:
            What to add to the outcome's message.
        """
        if not self._config.export:
            return ""
        self._reporter.update("exporting")
        try:
            formats = self._config.export
            lines = run_export(self._config, promoted, formats, stop=self._stop)
        except (Interrupted, StorageError):
            raise
        except TaktError as e:
            self._check_running(e)
            return f"; not exported: {e}"
        return "".join(f"; {line}" for line in lines)

    def _check_running(self, error: TaktError) -> None:
        """Check that an error is a finding, and not that a stop could not be orderly.

        Raises:
            Interrupted: the daemon is being stopped.
        """
        if self._stop.is_set():
            raise Interrupted("stopped at work; its checkpoint stays") from error

    def _distil(
        self,
        release: Release,
        manifest: Manifest,
        folder: Path,
        work: Path,
        images: Snapshot,
    ) -> DistilResult:
        """Run the child to its end, or return the result of an earlier run."""
        config = self._config
        job = make_job(
            config,
            manifest,
            folder=folder,
            work=work,
            serving=serving_student(config, self.current.promoted),
        )
        prepare_work_dir(release, job, images)
        distillation = Distillation(
            config.profile,
            node=config.node,
            cap_method=config.cap_method,
            stop=self._stop,
            on_progress=self._report_progress,
        )
        recipe = recipe_of(manifest, config.student)
        result, self._usage = distillation.run(
            job, default_batch_size=recipe.batch_size
        )
        return result

    def _report_progress(self, last: EpochPoint | None, usage: ChildUsage) -> None:
        """Put the child's last epoch into the status."""
        self._usage = usage
        fields: dict[str, Any] = {
            "cap": usage.cap,
            "peak_memory_mib": usage.peak_memory_mib,
        }
        if last is None:
            self._reporter.update("distilling", **fields)
            return
        if last.clean_accuracy is not None:
            fields["clean_accuracy"] = last.clean_accuracy
        if last.robust_accuracy is not None:
            fields["robust_accuracy"] = last.robust_accuracy
        self._reporter.update(
            "evaluating" if last.epoch >= last.epochs else "distilling",
            progress=min(1.0, last.epoch / last.epochs),
            epoch=last.epoch,
            epochs=last.epochs,
            cpu_s=last.cpu_s,
            **fields,
        )

    def _publish_current(self) -> None:
        """Put the serving student and the last outcome into the status."""
        current, promoted = self.current, self.current.promoted
        self._reporter.update(
            version=current.version,
            outcome=current.outcome,
            clean_accuracy=promoted.clean_accuracy if promoted else None,
            robust_accuracy=robust_accuracy(promoted) if promoted else None,
            release_robust_accuracy=(
                release_robust_accuracy(promoted) if promoted else None
            ),
            notes=current.notes,
        )

    def _clean_up(self, release: Release, sync: ReleaseSync) -> None:
        """Remove what neither this release nor the serving student needs."""
        promoted = self.current.promoted
        served = {promoted.version} if promoted else set()
        earlier = {
            int(folder.name)
            for folder in self._state.releases.iterdir()
            if folder.name.isdecimal() and int(folder.name) < release.version
        }
        keep = {release.version, *served, *sorted(earlier)[-1:]}
        sync.prune(keep)
        for folder in self._state.work.iterdir():
            if folder.name != str(release.version):
                shutil.rmtree(folder, ignore_errors=True)
        if self.current.outcome == "failed":  # a restart tries with the whole batch
            (self._state.work / str(release.version) / JOB).unlink(missing_ok=True)
        if promoted and promoted.version == release.version:
            prune_students(self._state, promoted)


@dataclass(frozen=True)
class _Conclusion:
    """What came of a release on this node."""

    outcome: str  # promoted, kept, refused or failed
    message: str
    result: DistilResult | None = None
    promoted: Promoted | None = None
    failure: TaktError | None = None
