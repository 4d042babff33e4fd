"""How Python is started, so that it imports takt's own code and libraries alone.

A module `random` or a folder `common` in the working directory or on PYTHONPATH is the
user's, and by default Python finds it before ours and the standard library's. Children
of takt get options for that, `python`; for what others start (Ray's processes) there
are variables, `OWN_CODE`. Not here: the start of `takt` itself, which is
`deploy/cli/takt.sh`, and what the children do.
"""

import sys
from collections.abc import Mapping

# Variables of an environment in which others start Python; None: not set.
OWN_CODE: Mapping[str, str | None] = {
    "PYTHONPATH": None,
    "PYTHONHOME": None,
    "PYTHONSAFEPATH": "1",
}


def python(*arguments: str) -> list[str]:
    """Make the command of a Python child, for instance of ``-m edge.distill``.

    It ignores PYTHONPATH, the working directory and the user's own site-packages. Since
    it ignores the other variables of Python too, what matters of them is handed on:
    file names mean the same to both, and where no bytecode may be written, none is.
    """
    options = ["-I", "-X", f"utf8={sys.flags.utf8_mode}"]
    if sys.dont_write_bytecode:
        options.append("-B")
    if sys.pycache_prefix is not None:
        options += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    return [sys.executable, *options, *arguments]
