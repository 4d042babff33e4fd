"""Named points where a test may kill this process or make its disk fail.

The environment variable ``TAKT_FAULT="<point>:<kind>"`` arms one point, for
instance ``child.checkpoint.before_rename:kill``. Kinds: ``kill`` (SIGKILL to
itself, as by a power cut), ``enospc`` and ``eio`` (the OSError that a full or a
broken disk raises). Unset, `point` does nothing. Not here: faults of the network.
"""

import errno
import os
import signal

from common.errors import ConfigError

VARIABLE = "TAKT_FAULT"


def point(name: str) -> None:
    """Fail here, if this point is the armed one.

    Args:
        name: of the durable step and the moment in it, e.g. "x.before_rename".

    Raises:
        OSError: ENOSPC or EIO, when armed so.
        ConfigError: `TAKT_FAULT` names no known kind.
    """
    armed = os.environ.get(VARIABLE)
    if not armed:
        return
    armed_name, _, kind = armed.rpartition(":")
    if armed_name != name:
        return
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif kind == "eio":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    else:
        raise ConfigError(
            f"{VARIABLE}={armed!r}: kind '{kind}' is unknown; "
            "expected <point>:kill, <point>:enospc or <point>:eio"
        )
