"""How a child of this wing ends: one line on stderr and an exit code.

Not here: the codes (common.errors).
"""

import sys
from collections.abc import Callable

from common.errors import (
    OUT_OF_MEMORY,
    TERMINATED,
    Interrupted,
    TaktError,
    is_out_of_memory,
    one_line,
)


def exit_code_of(work: Callable[[], object]) -> int:
    """Run `work`; write what went wrong to stderr and return the exit code.

    Raises:
        Exception: it is neither an error of takt nor memory that ran out, thus a bug.
    """
    try:
        work()
    except Interrupted as e:
        print(e, file=sys.stderr)
        return TERMINATED
    except TaktError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    except (MemoryError, RuntimeError) as e:
        if not is_out_of_memory(e):
            raise
        reason = one_line(e)
        print(f"out of memory while distilling: {reason}", file=sys.stderr)
        return OUT_OF_MEMORY
    return 0
