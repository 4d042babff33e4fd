"""Whose a folder is: keys and state are not kept where another user may change them.

On a machine with several users somebody else may have made a folder first, in
/var/tmp for instance, with keys of their own in it. Root's folders are trusted, and
root may use those of others. Members of a folder's group may write to it, where that is
wanted: containers get their volumes so. Not here: permissions of single files
(common.durable).
"""

import os
import pwd
import stat
from pathlib import Path

from common.errors import StorageError


def require_own_folder(path: Path) -> None:
    """Refuse a folder of another user, or one that every user may write to.

    One that is not there yet is accepted, and so is where something was mounted for all
    to write: others cannot mount, and some volumes come so.

    Raises:
        StorageError: it is refused; with the way to mend it.
    """
    try:
        found = path.stat()
    except OSError:
        return  # whoever uses it says what is wrong
    own = os.geteuid()
    if own not in (0, found.st_uid) and found.st_uid != 0:
        raise StorageError(
            f"{path} belongs to {_name(found.st_uid)}, expected {_name(own)} or root: "
            "what lies in it may be another's; choose a folder of your own, for "
            "instance in your home"
        )
    sticky = bool(found.st_mode & stat.S_ISVTX)
    if found.st_mode & stat.S_IWOTH and (sticky or not path.is_mount()):
        fix = "make one of your own in it" if sticky else f"run `chmod o-w {path}`"
        raise StorageError(
            f"every user may write to {path} (mode {stat.S_IMODE(found.st_mode):o}), "
            f"expected its owner alone; {fix}, or "
            "choose another"
        )


def keep_others_from_writing() -> None:
    """Let nobody but owner and group write to what this process makes from now on.

    Below a umask of 0, as some containers and cron daemons set it, takt would refuse
    the folders that it has made itself. Children inherit it.
    """
    os.umask(os.umask(stat.S_IWOTH) | stat.S_IWOTH)


def _name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid {uid}"
