"""A child's own connection to the live teacher: as its node, under its node's caps.

Not here: the calls (edge/link/teacher_stream.py), what is asked (answers.py,
live_teacher.py). Torch-free.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from edge.credentials import Certificates
from edge.jobs.job import LiveLink
from edge.link.connection import Connection, ConnectionOptions
from edge.link.teacher_stream import TeacherStream

_TICK_S = 0.1


@contextlib.contextmanager
def open_stream(
    where: LiveLink, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[TeacherStream]:
    """Connect to a gateway's teacher for the body; nothing is sent before a question.

    Args:
        where: the gateway, and the node's identity and caps.
        should_stop: called while waiting; True ends the wait with `Interrupted`.

    Raises:
        IdentityError: a certificate file cannot be read.
    """
    connection = Connection(
        where.gateway,
        Certificates.of(where.identity_dir),
        ConnectionOptions(where.profile, where.deadline_s, where.stall_s, where.proxy),
        stop=_StopWhen(should_stop),
    )
    stream = TeacherStream(connection)
    try:
        yield stream
    finally:
        stream.close()
        connection.close()


class _StopWhen(threading.Event):
    """An event that is set while a function returns True.

    A signal handler must not set an event that its own thread may be waiting on.
    """

    def __init__(self, is_set: Callable[[], bool]) -> None:
        super().__init__()
        self._is_set = is_set

    def is_set(self) -> bool:
        return self._is_set()

    def wait(self, timeout: float | None = None) -> bool:
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while not self.is_set() and (rest_s := end - time.monotonic()) > 0:
            time.sleep(min(rest_s, _TICK_S))
        return self.is_set()
