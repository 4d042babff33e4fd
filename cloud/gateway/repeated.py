"""What a gateway writes again and again in a thread, and how it says that it cannot.

Not here: what is written (fleet_service.py, authorization.py).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn

from common.errors import TaktError


async def write_repeatedly(
    write: Callable[[], object], *, every_s: float, what: str, logger: logging.Logger
) -> NoReturn:
    """Write for ever, in a thread; one that fails is tried again at the next turn.

    Args:
        write: what is done in the thread.
        every_s: seconds between two turns.
        what: is written, in plural, for the log.
        logger: is told once that it cannot be written, and once that it is again.
    """
    problem = ""
    while True:
        await asyncio.sleep(every_s)
        before = problem
        try:
            await asyncio.to_thread(write)
            problem = ""
        except TaktError as e:
            problem = str(e)
        if problem and not before:
            logger.error("%s wait to be written: %s", what, problem)
        elif before and not problem:
            logger.info("%s are written again", what)
