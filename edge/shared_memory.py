"""Whether two processes have one address space, as after vfork (kcmp(2)).

Linux only. Not here: pages that two address spaces share, as after fork; those
show in their proportional share.
"""

import ctypes
import platform
import sys

_KCMP = {"x86_64": 312, "aarch64": 272}.get(platform.machine())  # syscall numbers
_KCMP_VM = 1  # of <linux/kcmp.h>: compare the address spaces
_syscall = ctypes.CDLL(None, use_errno=True).syscall


def have_one_address_space(pid: int, other: int) -> bool | None:
    """Ask the kernel; None when it does not say.

    It needs CONFIG_KCMP and the right to read both processes; the default seccomp
    profiles of container engines forbid it.
    """
    if _KCMP is None or sys.platform != "linux":
        return None
    args = (ctypes.c_long(n) for n in (_KCMP, pid, other, _KCMP_VM, 0, 0))
    answer = _syscall(*args)
    return None if answer < 0 else answer == 0
