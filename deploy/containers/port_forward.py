"""A door between networks: TCP connections are passed on, byte for byte.

    python -m deploy.containers.port_forward 7443=head:7443 7444=head:7444

In the compose file it stands between each node's network and the cloud's, so that
a node reaches the gateway's two ports and nothing else of the cloud. TLS goes
through it unopened: it holds no key and reads nothing. A target's name is looked
up for every connection, for a container that was replaced has a new address. Not
here: rates, delays and cuts (edge/link/client.py).
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from common.errors import AddressError, ConfigError, TaktError

_CHUNK_BYTES = 64 * 1024
_CONNECT_S = 10.0


class Passage(NamedTuple):
    """A port here and where its connections go."""

    port: int
    host: str
    target_port: int


def parse_passage(text: str) -> Passage:
    """Read ``PORT=HOST:PORT``.

    Raises:
        ConfigError: it is not of that form.
    """
    port, equals, target = text.partition("=")
    host, colon, target_port = target.rpartition(":")
    if not (equals and colon and host and port.isdecimal() and target_port.isdecimal()):
        raise ConfigError(f"door {text!r}: expected PORT=HOST:PORT")
    return Passage(int(port), host, int(target_port))


async def open_door(passage: Passage, host: str = "0.0.0.0") -> asyncio.Server:
    """Listen on the passage's port (0 takes a free one) and pass connections on.

    Raises:
        AddressError: the port cannot be had.
    """
    try:
        return await asyncio.start_server(
            partial(_pass_on, passage), host, passage.port
        )
    except OSError as e:
        raise AddressError(
            f"cannot listen on {host}:{passage.port}: {e.strerror or e}; choose "
            "another port"
        ) from e


async def _pass_on(
    passage: Passage, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Join one connection with one to the target; either end closes both ways."""
    try:
        there = await asyncio.wait_for(
            asyncio.open_connection(passage.host, passage.target_port), _CONNECT_S
        )
    except OSError:  # refused, unknown or silent: the caller sees a closed connection
        writer.transport.abort()
        return
    await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end; `drain` lets a slow reader slow the sender."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
        await writer.wait_closed()


async def _serve(passages: Sequence[Passage]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    servers = [await open_door(passage) for passage in passages]
    await stop.wait()
    for server in servers:
        server.close()


def main(arguments: Sequence[str]) -> int:
    """Open every door until SIGTERM; return the exit code."""
    try:
        passages = [parse_passage(text) for text in arguments]
        if not passages:
            raise ConfigError("no door given; expected PORT=HOST:PORT ...")
        asyncio.run(_serve(passages))
    except TaktError as e:
        print(f"takt: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
