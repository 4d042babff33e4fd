"""Domain errors -> gRPC status codes: the only place where one becomes the other.

Also the few errors that only a request can cause. What is not a `TaktError` is a
bug: it is logged in full here and leaves as INTERNAL without a word of detail. The
way back, codes to domain errors, is the node's (`edge.link.client`).
"""

import logging

import grpc

from common.errors import ConfigError, IdentityError, StorageError, TaktError

logger = logging.getLogger(__name__)


class BadRequestError(TaktError):
    """A request is malformed, or a number in it cannot be true."""


class MissingFileError(TaktError):
    """The repository has no such file, or what is there is not a plain file."""


class OffsetError(TaktError):
    """A fetch starts beyond the end of its file."""


class QuotaError(TaktError):
    """A node has as many calls open as it may."""


class NotServedError(TaktError):
    """This gateway was started without what the call needs."""


_CODES: tuple[tuple[type[TaktError], grpc.StatusCode], ...] = (
    (BadRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
    (MissingFileError, grpc.StatusCode.NOT_FOUND),
    (OffsetError, grpc.StatusCode.OUT_OF_RANGE),
    (QuotaError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (NotServedError, grpc.StatusCode.UNIMPLEMENTED),
    (IdentityError, grpc.StatusCode.PERMISSION_DENIED),
)


def status_of(error: Exception, method: str) -> tuple[grpc.StatusCode, str]:
    """Say how an error leaves the gateway.

    Args:
        error: what a servicer raised.
        method: the full name of the call, for the log.

    Returns:
        The code, and one line for the peer.
    """
    for kind, code in _CODES:
        if isinstance(error, kind):
            logger.info("%s refused: %s", method, error)
            return code, str(error)
    if isinstance(error, StorageError):
        # The operator's to mend; the node waits and comes back.
        logger.error("%s failed: %s", method, error)
        return (
            grpc.StatusCode.UNAVAILABLE,
            "the gateway's storage fails; its log says why",
        )
    logger.error("%s failed unexpectedly", method, exc_info=error)
    return grpc.StatusCode.INTERNAL, "internal error"
