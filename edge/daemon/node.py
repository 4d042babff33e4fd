"""The node's daemon: watch, pull, distil, evaluate, promote, report.

It stays small and never imports torch: each distillation is a child process inside
its caps. A kill at any point leaves the old state or the new one, and the last good
student serves until a better one is promoted. The states:

    enrolled -> pulling -> verifying -> distilling -> evaluating -> promoting
        -> exporting, where edge.toml asks for it -> idle
    backing-off: a problem outside (gateway, disk, trust); it tries again
    stopped: on request, or because it cannot go on

Not here: what is done with a release (edge/daemon/release_handler.py), the threads
beside it (heartbeat.py, release_watch.py and renewal.py in edge/daemon).
"""

import contextlib
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from common.errors import (
    CapError,
    ConfigError,
    IdentityError,
    Interrupted,
    LinkError,
    StorageError,
    TaktError,
    TrustError,
)
from common.records import Cap
from common.signals import exit_code_of, stop_signals
from edge.config import EdgeConfig
from edge.credentials import Certificates, Identity, load_identity
from edge.daemon.heartbeat import Heartbeat
from edge.daemon.release_handler import ReleaseHandler
from edge.daemon.release_watch import ReleaseWatcher
from edge.daemon.renewal import Renewal, finish_renewal
from edge.daemon.reports import Outbox
from edge.daemon.sd_notify import Notifier
from edge.daemon.status import StatusReporter, summary_line
from edge.limits import open_executor
from edge.link.client import Link
from edge.link.connection import Connection, ConnectionOptions
from edge.link.retry import full_jitter
from edge.releases.sync import ReleaseSync
from edge.state import Current, StateDir, Status

logger = logging.getLogger(__name__)

_FIRST_S, _MAX_S = 2.0, 60.0  # pauses of backing-off
_FIRST_RELEASE_POLL_S = 5.0
_WAITING = "waiting for the channel's first release"
# Causes outside the daemon, which may pass: it backs off and tries again.
_TEMPORARY = (LinkError, TrustError, StorageError, IdentityError)


class NodeDaemon:
    """One node; call `once` or `run` a single time, from the main thread."""

    def __init__(
        self,
        config: EdgeConfig,
        *,
        rng: random.Random | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        """Prepare; nothing is read or sent before `once` or `run`."""
        self._config = config
        self._rng = rng or random.Random()
        self._notifier = notifier or Notifier({})
        self._state = StateDir(config.state_dir)
        self._outbox = Outbox(self._state)
        status = Status(node=config.node, student=config.student)
        self._reporter = StatusReporter(self._state, status)
        self._reporter.on_update = self._notifier.keep_alive
        self._stop = threading.Event()
        self._wake = threading.Event()

    def stop(self) -> None:
        """Ask the daemon to end, from any thread; it takes a few seconds at most."""
        self._notifier.stopping()
        self._stop.set()
        self._wake.set()

    def once(self, *, wait: bool = False) -> Current:
        """Handle the channel's present release, deliver the report, and return.

        A release that was handled is handled again where the node's own images are
        others than they were then.

        Args:
            wait: until there is a first release, if the channel has none yet.

        Returns:
            What current.json holds now.

        Raises:
            TaktError: what prevented it; nothing is lost, call it again.
        """
        with self._working() as (link, sync, handler):
            while (release := sync.check()) is None:
                if not wait:
                    raise LinkError(
                        f"channel '{sync.channel}' has no release yet; publish one, or "
                        "wait for it with `takt edge run`"
                    )
                self._pause("idle", _WAITING, _FIRST_RELEASE_POLL_S)
            failure = None
            if not handler.is_handled(release, any_new=True):
                failure = handler.handle(release, link, sync)
            self._outbox.flush(link)
            self._reporter.update("idle", progress=1.0, message=handler.current.message)
            if failure is not None:
                raise failure
            return handler.current

    def run(self) -> None:
        """Follow the channel until `stop`; wait while a cause outside prevents it.

        `retrain_after` new images of the node's own, which are looked for as often as
        releases are (`poll_s`), have the present release distilled again.

        Raises:
            ConfigError: at the start, without a channel or with too short a watchdog.
            IdentityError: at the start, without a valid certificate.
            CapError: at the start, when the caps cannot be enforced or are too small.
            StorageError: at the start, when the state folder cannot be used.
        """
        self._notifier.check_watchdog(self._config)
        with contextlib.suppress(Interrupted), self._working() as (link, sync, handler):
            self._notifier.ready()
            failures = 0
            while True:
                try:
                    self._outbox.flush(link)
                    release = sync.check()
                    if release is not None and not handler.is_handled(release):
                        handler.handle(release, link, sync)
                        self._outbox.flush(link)
                except _TEMPORARY as e:
                    failures += 1
                    logger.warning("%s", e)
                    if isinstance(e, IdentityError):  # it may be enrolled anew
                        with contextlib.suppress(IdentityError):
                            link.connection.reopen()
                    pause_s = full_jitter(
                        failures, self._rng, first_s=_FIRST_S, max_s=_MAX_S
                    )
                    self._pause("backing-off", str(e), pause_s)
                    continue
                failures = 0
                if release is None:
                    self._pause("idle", _WAITING, _FIRST_RELEASE_POLL_S)
                else:
                    message = handler.current.message
                    self._pause("idle", message, self._config.poll_s)

    def _pause(self, state: str, message: str, pause_s: float) -> None:
        """Publish a status, then wait for a release, a stop or the end of the pause."""
        self._reporter.update(state, message=message)
        end = time.monotonic() + pause_s
        while (rest_s := end - time.monotonic()) > 0:
            if self._wake.wait(min(rest_s, self._notifier.interval_s)):
                break
            self._notifier.keep_alive()
        if self._stop.is_set():
            raise Interrupted("asked to stop")
        self._wake.clear()

    @contextlib.contextmanager
    def _working(self) -> Iterator[tuple[Link, ReleaseSync, ReleaseHandler]]:
        """Hold the lock, the connection and the threads while the daemon works."""
        config, state = self._config, self._state
        at_work = False  # what prevents that is the one line that the verb ends with
        with state.lock():
            state.create()
            try:
                finish_renewal(state.identity)
                identity = load_identity(state.identity, node=config.node)
                handler = ReleaseHandler(
                    config, state, self._reporter, self._outbox, stop=self._stop
                )
                self._reporter.update("enrolled")
                at_work = True
                with self._connected(identity, handler) as (link, sync):
                    self._reporter.update(cap=self._check_caps())
                    yield link, sync, handler
            except TaktError as e:  # Interrupted is one
                self._reporter.update("stopped", is_told=not at_work, message=str(e))
                raise
            else:
                self._reporter.update("stopped", message=handler.current.message)
            finally:
                self._notifier.stopping()

    @contextlib.contextmanager
    def _connected(
        self, identity: Identity, handler: ReleaseHandler
    ) -> Iterator[tuple[Link, ReleaseSync]]:
        """Connect to the gateway; run the heartbeat and the watcher on the link."""
        config, state = self._config, self._state
        channel = config.channel or identity.channel
        if channel is None:
            raise ConfigError("no channel to follow; set `channel` in edge.toml")
        connection = Connection(
            config.gateway,
            Certificates.of(state.identity),
            ConnectionOptions(
                config.profile,
                config.deadline_s,
                config.stall_s,
                config.proxy,
                state.place(),
            ),
            stop=self._stop,
            rng=self._rng,
            on_wait=self._report_wait,
        )
        link = Link(connection)
        heartbeat = Heartbeat(link, interval_s=config.heartbeat_s)
        watcher = ReleaseWatcher(
            link,
            channel=channel,
            known_version=lambda: handler.current.version,
            on_release=self._wake.set,
            stop=self._stop,
            rng=random.Random(self._rng.random()),
        )

        renewal = Renewal(
            link, identity, stop=self._stop, rng=random.Random(self._rng.random())
        )

        def publish(status: Status) -> None:
            heartbeat.update(status)
            self._notifier.status(summary_line(status))

        self._reporter.on_publish = publish
        publish(self._reporter.status)
        heartbeat.start()
        watcher.start()
        renewal.start()
        try:
            yield (
                link,
                ReleaseSync(link, state, channel=channel, root_json=identity.root_json),
            )
        finally:
            heartbeat.close()
            self._stop.set()
            watcher.close()
            renewal.close()
            link.close()

    def _check_caps(self) -> Cap:
        """Refuse caps that are too small before anything is pulled."""
        config = self._config
        try:
            with open_executor(
                config.profile, name=config.node, method=config.cap_method
            ) as executor:
                for note in executor.notes:
                    logger.warning("%s, and gets no more", note)
                return Cap(method=executor.method, hard=executor.hard)
        except CapError as e:  # published while the heartbeat still runs
            self._reporter.update("stopped", message=str(e))
            raise

    def _report_wait(self, error: TaktError, pause_s: float) -> None:
        message = f"{error}; next try in {pause_s:.1f} s"
        self._reporter.update("backing-off", message=message)


def run_daemon(config: EdgeConfig, *, once: bool, wait: bool = False) -> int:
    """Run a node until it is done or stopped by SIGTERM, SIGINT or SIGHUP.

    Args:
        config: of the node.
        once: handle the present release and return, instead of following.
        wait: with `once`, for a first release.

    Returns:
        The exit code: 0 when done, or when `run` was stopped; 130 or 143
        when `once` was.

    Raises:
        TaktError: what prevents it, with its own exit code.
    """
    # Only a daemon that follows is a service; the variables are removed in any case.
    notifier = Notifier(os.environ)
    daemon = NodeDaemon(config, notifier=None if once else notifier)
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        # Not in this thread: the handler may have interrupted a wait on that event.
        threading.Thread(target=daemon.stop, daemon=True).start()

    before = {number: signal.signal(number, on_signal) for number in stop_signals()}
    try:
        if once:
            daemon.once(wait=wait)
        else:
            daemon.run()
    except Interrupted:
        return exit_code_of(received[0] if received else signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        notifier.close()
    return 0
