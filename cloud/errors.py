"""Errors that only a node's request can cause; each has a gRPC status of its own.

`cloud.gateway.interceptor` turns them into the status. Not here: errors that a command
also ends with (common.errors); these have no exit code of their own.
"""

from common.errors import TaktError


class BadRequestError(TaktError):
    """A request is malformed, or a number in it is impossible."""


class MissingFileError(TaktError):
    """The repository has no such file, or what is there is not a plain file."""


class OffsetError(TaktError):
    """A fetch starts beyond the end of its file."""


class QuotaError(TaktError):
    """A node has as many calls open as it may."""


class NotServedError(TaktError):
    """This gateway was started without what the call needs."""


class NoMessageError(TaktError):
    """A call was opened and its message did not come."""


class ThrottledError(QuotaError):
    """A peer was refused too often lately; the log has it once, not for each call."""
