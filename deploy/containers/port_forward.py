"""Forwards TCP ports between networks, byte for byte.

    python -m deploy.containers.port_forward 7443=head:7443 7444=head:7444

In the compose file it connects each node's network with the cloud's, so that a node
reaches the gateway's two ports and nothing else of the cloud. TLS is not terminated
here: there is no key, and nothing is read. A target's name is looked up for every
connection, because a container that was replaced has a new address. Not here: rates,
delays and cuts (edge/link/throttle.py).
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from common.address import MAX_PORT, parse_address
from common.errors import AddressError, ConfigError, TaktError

_CHUNK_BYTES = 64 * 1024
_CONNECT_S = 10.0


class Forward(NamedTuple):
    """A port here and where its connections go."""

    port: int
    host: str
    target_port: int


def parse_forward(text: str) -> Forward:
    """Read ``PORT=HOST:PORT``.

    Raises:
        ConfigError: it is not of that form.
    """
    port, equals, target = text.partition("=")
    try:
        if not (equals and port.isdecimal() and int(port) <= MAX_PORT):
            raise ValueError("the port here is missing or wrong")
        return Forward(int(port), *parse_address(target))
    except ValueError as e:
        raise ConfigError(
            f"port forward {text!r}: {e}; the whole is PORT=HOST:PORT"
        ) from e


async def listen(forward: Forward, host: str = "0.0.0.0") -> asyncio.Server:
    """Listen on the forward's port (0: a free one) and relay its connections.

    Raises:
        AddressError: the port cannot be taken.
    """
    try:
        return await asyncio.start_server(partial(_relay, forward), host, forward.port)
    except OSError as e:
        raise AddressError(
            f"cannot listen on {host}:{forward.port}: {e.strerror or e}; choose "
            "another port"
        ) from e


async def _relay(
    forward: Forward, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Connect one connection with one to the target; either end closes both ways."""
    try:
        there = await asyncio.wait_for(
            asyncio.open_connection(forward.host, forward.target_port), _CONNECT_S
        )
    except OSError:  # refused, unknown or silent: the caller sees a closed connection
        writer.transport.abort()
        return
    try:
        await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
    finally:  # at a stop both are still open
        for end in (writer, there[1]):
            end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end; `drain` lets a slow reader slow the sender."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
        await writer.wait_closed()


async def _serve(forwards: Sequence[Forward]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    servers = [await listen(forward) for forward in forwards]
    await stop.wait()
    for server in servers:
        server.close()


def main(arguments: Sequence[str]) -> int:
    """Forward every port until SIGTERM; return the exit code."""
    try:
        forwards = [parse_forward(text) for text in arguments]
        if not forwards:
            raise ConfigError("no port given; expected PORT=HOST:PORT ...")
        asyncio.run(_serve(forwards))
    except TaktError as e:
        print(f"takt: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
