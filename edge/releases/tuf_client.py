"""python-tuf's client over the node's link, its errors turned into takt's.

The library decides what is trusted: signatures, versions, expiry, rollback, mix
and match. This module fetches the bytes, remembers the last file that was requested (so
that errors can name it) and turns the library's errors into `TrustError`. Not here:
shards and manifests (edge/releases/sync.py).
"""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface, Updater

from common import faults
from common.clock import utc_now
from common.durable import storage_error, storing
from common.errors import TaktError, TrustError, one_line
from edge.link.client import Link
from edge.link.failures import MissingFileError

_MAX_BYTES = 5_000_000  # of any metadata file; tuf has a tighter bound for most


class LinkFetcher(FetcherInterface):
    """Fetch metadata files over a `Link`."""

    def __init__(self, link: Link) -> None:
        """Wrap `link`."""
        self._link = link
        self.last_path = ""
        self.last_data = bytearray()

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.last_path = url
        self.last_data = bytearray()
        chunks = self._link.fetch(url, max_bytes=_MAX_BYTES)
        while True:
            try:
                chunk = next(chunks, None)
            except MissingFileError as e:
                raise DownloadHTTPError(str(e), 404) from e
            if chunk is None:
                return
            self.last_data += chunk
            yield chunk


class TrustedMetadata:
    """One refreshed view of what the project signs; make a new one each time."""

    def __init__(self, folder: Path, link: Link, root_json: bytes) -> None:
        """Refresh from the gateway.

        Args:
            folder: keeps the trusted metadata between runs.
            link: to the gateway.
            root_json: the root that was trusted at enrolment.

        Raises:
            TrustError: the gateway's metadata is not to be trusted, or too old.
            LinkError: the gateway could not be reached within the deadline.
            StorageError: the folder cannot be written.
        """
        with storing(folder):
            for leftover in folder.glob("tmp*"):  # of a killed write
                leftover.unlink(missing_ok=True)
        fetcher = LinkFetcher(link)
        try:
            self._updater = Updater(
                str(folder), "metadata", fetcher=fetcher, bootstrap=root_json
            )
            self._updater.refresh()
            faults.point("edge.metadata.refreshed")
        except (RepositoryError, DownloadError) as e:
            raise _explain(e, fetcher) from e
        except OSError as e:
            raise storage_error(e, folder) from e

    def find(self, path: str) -> TargetFile | None:
        """Look up a target's signed length and hashes; None when there is none.

        Raises:
            TrustError: the metadata of a delegated role is not to be trusted.
        """
        try:
            return self._updater.get_targetinfo(path)
        except (RepositoryError, DownloadError) as e:
            raise TrustError(f"{path}: {one_line(e)}; the release is refused") from e


def _explain(error: Exception, fetcher: LinkFetcher) -> TaktError:
    """Name the file and the kind of problem in one line."""
    path = fetcher.last_path or "the trusted root (identity/root.json)"
    detail = one_line(error)
    if isinstance(error, ExpiredMetadataError):
        return TrustError(
            f"{path} {_age(bytes(fetcher.last_data))}; the project has not signed "
            "anything since (or this machine's clock is wrong); the present student "
            "stays: ask the operator to look at `takt cloud check`"
        )
    if isinstance(error, BadVersionNumberError):
        return TrustError(
            f"{path} is older than what this node has seen ({detail}); a rollback is "
            "refused, the present student stays"
        )
    if isinstance(error, DownloadLengthMismatchError):
        return TrustError(f"{path} is longer than allowed ({detail}); refused")
    if isinstance(error, DownloadHTTPError):
        return TrustError(
            f"{path} is missing at the gateway though it is listed; the repository "
            "there is incomplete: publish again"
        )
    return TrustError(
        f"{path} is not to be trusted ({detail}); refused, the present student stays"
    )


def _age(data: bytes) -> str:
    """Describe how long ago a metadata file expired."""
    try:
        expires = datetime.fromisoformat(json.loads(data)["signed"]["expires"])
    except (ValueError, KeyError, TypeError):
        return "has expired"
    days = (utc_now() - expires).total_seconds() / 86400
    age = f"{days:.1f} days" if days >= 1 else f"{days * 24:.1f} hours"
    return f"expired {age} ago (on {expires:%Y-%m-%d %H:%M} UTC)"
