"""A TCP proxy that misbehaves on purpose, between a node and its gateway.

It works on raw bytes, so under TLS: cuts, flips, black holes and slow lines need
no root and no kernel modules. Faults apply to what the gateway sends, counted
from the start of each connection. A lost or reordered packet is, above TCP, a pause
until it was sent again, so that is what `loss` makes of it.
"""

import asyncio
import contextlib
import random
import threading
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Faults:
    """What happens to one connection; None: nothing."""

    cut_at: int | None = None  # bytes, then the connection is reset
    flip_at: int | None = None  # this byte arrives with a bit changed
    hole_at: int | None = None  # bytes, then silence in both directions
    rate_bytes_s: float | None = None
    loss: float = 0.0  # share of the pieces (at most 1448 bytes) that come late
    resend_s: float = 0.2  # by so much, which is Linux's shortest timeout of TCP
    round_trip_s: float = 0.0  # before anything of the node's is passed on


@dataclass
class ChaosProxy:
    """Forwards to `target`; each new connection takes the next of `script`.

    After the script connections take the `default`.
    """

    target: str
    script: list[Faults] = field(default_factory=list)
    default: Faults = Faults()
    host: str = "127.0.0.1"
    source: str | None = None  # address that connections to the target come from
    num_connections: int = 0
    forwarded_bytes: int = 0  # from the gateway to the node
    num_late: int = 0  # pieces that were lost at first
    refuse: bool = False  # True: accepted connections are closed at once

    def __enter__(self) -> Self:
        """Start listening on a free port."""
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready)), name="chaos"
        )
        self._thread.start()
        ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Reset every connection and stop."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    @property
    def address(self) -> str:
        """Return host:port, for the node."""
        return f"{self.host}:{self.port}"

    def then(self, **faults: float | int) -> None:
        """Give the next connection these faults."""
        self.script.append(replace(Faults(), **faults))  # type: ignore[arg-type]

    def cut_all(self) -> None:
        """Reset every open connection."""
        self._loop.call_soon_threadsafe(self._reset)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, self.host, 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stopping.wait()
        server.close()
        self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.num_connections += 1
        faults = self.script.pop(0) if self.script else self.default
        other: asyncio.StreamWriter | None = None
        try:
            if self.refuse:
                return
            host, _, port = self.target.rpartition(":")
            back, other = await asyncio.open_connection(
                host, int(port), local_addr=(self.source, 0) if self.source else None
            )
            self._writers.add(other)
            hole = asyncio.Event()
            up = asyncio.create_task(self._pump_up(reader, other, hole, faults))
            down = asyncio.create_task(self._pump_down(back, writer, faults, hole))
            _, pending = await asyncio.wait(
                (up, down), return_when=asyncio.FIRST_COMPLETED
            )
            for each in pending:
                each.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
        except OSError:
            pass
        finally:
            for each_writer in (writer, other):
                if each_writer is not None:
                    self._writers.discard(each_writer)
                    each_writer.transport.abort()
            self._tasks.discard(task)

    async def _pump_up(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        hole: asyncio.Event,
        faults: Faults,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if hole.is_set():
                    continue
                if faults.round_trip_s:
                    await asyncio.sleep(faults.round_trip_s)
                writer.write(data)
                await writer.drain()

    async def _pump_down(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        faults: Faults,
        hole: asyncio.Event,
    ) -> None:
        done = 0
        lost = random.Random(self.num_connections)
        with contextlib.suppress(OSError):
            while data := await reader.read(1448 if faults.loss else 4096):
                if lost.random() < faults.loss:
                    self.num_late += 1
                    await asyncio.sleep(faults.resend_s)
                if faults.flip_at is not None:
                    at = faults.flip_at - done
                    if 0 <= at < len(data):
                        changed = bytes([data[at] ^ 1])
                        data = data[:at] + changed + data[at + 1 :]
                for limit in (faults.cut_at, faults.hole_at):
                    if limit is not None:
                        data = data[: max(0, limit - done)]
                writer.write(data)
                await writer.drain()
                done += len(data)
                self.forwarded_bytes += len(data)
                if faults.cut_at is not None and done >= faults.cut_at:
                    return
                if faults.hole_at is not None and done >= faults.hole_at:
                    hole.set()
                    await self._stopping.wait()
                if faults.rate_bytes_s:
                    await asyncio.sleep(len(data) / faults.rate_bytes_s)
