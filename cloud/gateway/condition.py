"""What an operator must mend at a gateway, found before nodes notice.

Looked at once a minute: signatures (renewed on the way), certificates, the fleet's
database, the disk. Each is a service of grpc.health.v1, NOT_SERVING while something is
wrong with it, and a line in the gateway's log when that changes. Nodes are served
meanwhile, and Ray Serve does not replace the gateway: another one would find the same
key, database and disk.
Not here: asking (`cloud.gateway.probe`), showing it (`cloud.gateway.status`), what
makes Serve replace a gateway (`RunningGateway.check`), signing itself
(`cloud.publishing.tuf_metadata`).
"""

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from types import MappingProxyType
from typing import NoReturn

from cloud.fleet.database import Fleet
from cloud.gateway.certificate_ends import CertificateEnds
from cloud.gateway.health import Health
from cloud.publishing.repository import ReleaseRepository
from cloud.publishing.roles import ONLINE
from cloud.storage import StorageDir
from common import faults
from common.durable import storing
from common.errors import StorageError, TaktError, one_line

logger = logging.getLogger(__name__)

CHECK_S = 60.0
LOCK_WAIT_S = 30.0  # for a publish: the other parts wait for as long
MIN_FREE_BYTES = 64 * 1024 * 1024  # a release of a small data set, and its signatures
_PROBE_BYTES = 4096
SIGNATURES, CERTIFICATES, DATABASE, DISK = PARTS = (
    "takt.signatures",
    "takt.certificates",
    "takt.database",
    "takt.disk",
)


class Condition:
    """The condition of a gateway's signatures, certificates, database and disk."""

    def __init__(
        self,
        storage: StorageDir,
        repository: ReleaseRepository,
        fleet: Fleet,
        health: Health,
        certificates: CertificateEnds,
    ) -> None:
        """Look at nothing yet."""
        self._storage = storage
        self._repository = repository
        self._fleet = fleet
        self._health = health
        self._certificates = certificates
        self._problems: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._looking = asyncio.Lock()

    @property
    def problems(self) -> MappingProxyType[str, str]:
        """Return what is wrong, by part, as of the last look."""
        return MappingProxyType(self._problems)

    async def look(self) -> None:
        """Sign what is due; find what is wrong and say what has changed."""
        checks: dict[str, Callable[[], object]] = {
            SIGNATURES: self._check_signatures,
            CERTIFICATES: self._certificates.check,
            DATABASE: self._fleet.check,
            DISK: self._check_disk,
        }
        async with self._looking:
            for part, check in checks.items():
                try:
                    await asyncio.to_thread(check)
                except (TaktError, OSError) as e:
                    await self._note(part, one_line(e, 500))
                else:
                    await self._note(part, "")

    async def run(self) -> NoReturn:
        """Look once a minute, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(CHECK_S)

    async def _note(self, part: str, problem: str) -> None:
        if problem == self._problems.get(part, ""):
            return
        if problem:
            self._problems[part] = problem
            logger.error("%s: %s", part, problem)
        else:
            del self._problems[part]
            logger.info("%s: works again", part)
        await self._health.set_serving(part, not problem)

    def _check_signatures(self) -> None:
        """Sign what is due.

        Raises:
            StorageError: a role that is always signed here was not, a role is near its
                end, there is no repository, or another process holds it.
        """
        done = self._repository.refresh(wait_s=LOCK_WAIT_S)
        if done.signed:
            logger.info("signed again: %s", ", ".join(done.signed))
        for role, why in done.failures.items():
            if self._refused.get(role) != why:
                logger.warning("cannot sign %s again: %s", role, why)
        self._refused = dict(done.failures)
        problems = [f for role, f in done.failures.items() if role in ONLINE]
        problems += self._repository.near_end()
        if problems:
            raise StorageError("; ".join(problems))

    def _check_disk(self) -> None:
        """Write a file, as signing would.

        Raises:
            StorageError: the disk refuses, or is nearly full.
        """
        root = self._storage.root
        with storing(root), tempfile.TemporaryFile(dir=root) as file:
            faults.point("gateway.disk")
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
            free = shutil.disk_usage(root).free
        if free < MIN_FREE_BYTES:
            mib = 1024 * 1024
            raise StorageError(
                f"{root} has less than {MIN_FREE_BYTES // mib} MiB free "
                f"(expected that at least); free space before signing stops"
            )
