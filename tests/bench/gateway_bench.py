"""What admission costs: the gateway beside a bare grpc.aio server, on a core each.

    .venv/bin/python tests/bench/gateway_bench.py [--rounds 9] [--seconds 2]

Both servers have mutual TLS and the same certificates, and do the same work: answer a
heartbeat, stream a file from the disk. The bare one does no more than that: no
admission, no bounds, no database; its unary calls are unary handlers. Each runs on the
first core, the client, a node's own channel, on the last; one server is asked at a
time, in turns, so that what else the machine does meets both. Small calls are made one
after the other and eight at a time; the bare stream is tried at several message sizes,
and the best counts. Beside the rates stands the server's CPU time, which other
processes touch less. Medians over the rounds, and of the ratio of each round, go to
results/gateway.json; gateway_table.py writes the page's table.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import psutil
from rows import Row, write_rows

from cloud.gateway.server import start_gateway_server
from cloud.pki.authority import Authority
from cloud.publishing.repository import ReleaseRepository
from cloud.storage import StorageDir
from common.config import GatewayConfig
from common.pb import takt_pb2 as pb
from common.pb import takt_pb2_grpc
from edge.credentials import Certificates, make_request
from edge.link.channel import open_channel

ROWS = Path(__file__).parent / "results" / "gateway.json"
NODE = "bench"
FILE = "targets/bench"
FILE_BYTES = 64 * 1024 * 1024
MESSAGE_BYTES = tuple(n * 1024 for n in (64, 256, 512, 1024))
IN_FLIGHT = (1, 8)


def bare_handlers(root: Path) -> tuple[grpc.GenericRpcHandler, ...]:
    """Answer a heartbeat, keep nothing; stream files below `root`."""

    async def heartbeat(request: Any, context: Any) -> pb.HeartbeatResponse:
        return pb.HeartbeatResponse()

    async def fetch(request: Any, context: Any) -> AsyncIterator[pb.FetchResponse]:
        path = root / request.path
        total, offset = path.stat().st_size, 0
        with path.open("rb", buffering=0) as file:
            while data := file.read(request.message_bytes):
                yield pb.FetchResponse(data=data, offset=offset, total_bytes=total)
                offset += len(data)

    answering = grpc.unary_unary_rpc_method_handler(
        heartbeat,
        pb.HeartbeatRequest.FromString,
        pb.HeartbeatResponse.SerializeToString,
    )
    streaming = grpc.unary_stream_rpc_method_handler(
        fetch, pb.FetchRequest.FromString, pb.FetchResponse.SerializeToString
    )
    services: dict[str, dict[str, Any]] = {
        "takt.v1.FleetService": {"Heartbeat": answering},
        "takt.v1.ReleaseService": {"Fetch": streaming},
    }
    return tuple(
        grpc.method_handlers_generic_handler(name, handlers)
        for name, handlers in services.items()
    )


async def serve(kind: str, storage: StorageDir) -> None:
    """Serve until standard input ends; print the port first."""
    if kind == "takt":
        gateway = await start_gateway_server(
            storage=storage, config=GatewayConfig(max_streams_per_node=64)
        )
        port, stop = int(gateway.address.rpartition(":")[2]), gateway.stop(0)
    else:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(bare_handlers(storage.repository))
        tls = Authority(storage.pki).server_credentials(("127.0.0.1",))
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)], tls.ca, require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        stop = server.stop(0)
        await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await stop


def prepare(folder: Path) -> tuple[StorageDir, Certificates]:
    """Make a project with a file to stream, and the certificates of a node."""
    storage = StorageDir(folder / "cloud")
    storage.create()
    authority = Authority(storage.pki)
    authority.init()
    ReleaseRepository(storage.repository, storage.keys).create()
    (storage.repository / FILE).write_bytes(os.urandom(FILE_BYTES))
    identity = folder / "node"
    request = make_request(identity, NODE)
    files = Certificates.of(identity)
    assert files.certificate is not None
    files.certificate.write_bytes(authority.sign(request, NODE))
    return storage, files._replace(ca=storage.ca)


@dataclass(frozen=True)
class Server:
    """A server in a process of its own, and a node's channel to it."""

    process: psutil.Process
    channel: grpc.Channel

    def measure(self, work: Callable[[grpc.Channel], float]) -> Row:
        """Run some work; return its units a second, and the CPU time of each.

        Args:
            work: makes calls and returns how much it did.
        """
        before, began = self.process.cpu_times(), time.perf_counter()
        done = work(self.channel)
        took, after = time.perf_counter() - began, self.process.cpu_times()
        cpu_s = after.user + after.system - before.user - before.system
        return {"per_s": done / took, "cpu_ms": 1000 * cpu_s / done}


@contextmanager
def running(kind: str, storage: StorageDir, node: Certificates) -> Iterator[Server]:
    """Start a server on the first core."""
    first = min(os.sched_getaffinity(os.getpid()))
    child = subprocess.Popen(
        [sys.executable, __file__, "--serve", kind, "--storage", str(storage.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process = psutil.Process(child.pid)
    process.cpu_affinity([first])
    assert child.stdin is not None and child.stdout is not None
    try:
        port = int(child.stdout.readline())
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {first})
        with open_channel(f"127.0.0.1:{port}", node, stall_s=30.0) as channel:
            yield Server(process, channel)
    finally:
        child.stdin.close()
        child.wait(30)


def small_calls(in_flight: int, seconds: float) -> Callable[[grpc.Channel], float]:
    """Send heartbeats for so long, so many at a time."""

    def work(channel: grpc.Channel) -> float:
        beat = takt_pb2_grpc.FleetServiceStub(channel).Heartbeat
        request = pb.HeartbeatRequest(state="distilling", version=3, progress=0.5)
        until = time.perf_counter() + seconds
        done, open_calls = 0, [beat.future(request) for _ in range(in_flight - 1)]
        while time.perf_counter() < until:
            open_calls.append(beat.future(request))
            open_calls.pop(0).result()
            done += 1
        for call in open_calls:
            call.result()
            done += 1
        return float(done)

    return work


def stream(request: pb.FetchRequest) -> Callable[[grpc.Channel], float]:
    """Fetch the file; the messages are not decoded, for the client is not measured."""

    def work(channel: grpc.Channel) -> float:
        fetch: Any = channel.unary_stream(
            "/takt.v1.ReleaseService/Fetch",
            request_serializer=pb.FetchRequest.SerializeToString,
        )
        got = sum(len(message) for message in fetch(request))
        assert got >= FILE_BYTES, "the file came short"
        return FILE_BYTES / 2**20

    return work


def rounds_of(number: int, seconds: float) -> dict[str, list[Row]]:
    """Measure both servers in turns; return the rounds of each measurement by name."""
    found: dict[str, list[Row]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        storage, node = prepare(folder)
        servers = {
            kind: stack.enter_context(running(kind, storage, node))
            for kind in ("bare", "takt")
        }
        for index in range(-1, number):  # the first is not counted
            for name, kind, work in plan(seconds):
                row = servers[kind].measure(work)
                if index >= 0:
                    found[f"{kind} {name}"].append(row)
            print(f"round {index + 1} of {number}", file=sys.stderr, flush=True)
    return found


Work = Callable[[grpc.Channel], float]


def plan(seconds: float) -> Iterator[tuple[str, str, Work]]:
    """Name what is measured in a round, at which server, in this order."""
    for in_flight in IN_FLIGHT:
        for kind in ("bare", "takt"):
            yield f"calls {in_flight}", kind, small_calls(in_flight, seconds)
    for size in MESSAGE_BYTES:
        for kind in ("bare", "takt"):
            yield f"stream {size}", kind, fetching(size)


def fetching(message_bytes: int) -> Work:
    """Fetch the file in messages of a size."""
    return stream(pb.FetchRequest(path=FILE, message_bytes=message_bytes))


def rows_of(found: dict[str, list[Row]]) -> list[Row]:
    """Take the medians over the rounds, and of the ratios to the bare server."""
    sizes = [f"bare stream {size}" for size in MESSAGE_BYTES]
    best = max(sizes, key=lambda name: median(r["per_s"] for r in found[name]))
    rows = []
    for name, rounds in found.items():
        kind, what, number = name.split()
        beside = found[best if what == "stream" else f"bare {what} {number}"]
        shares = [
            mine["per_s"] / bare["per_s"]
            for mine, bare in zip(rounds, beside, strict=True)
        ]
        rows.append(
            {
                "server": kind,
                "what": what,
                "in_flight" if what == "calls" else "message_bytes": int(number),
                "per_s": round(median(r["per_s"] for r in rounds), 1),
                "cpu_ms": round(median(r["cpu_ms"] for r in rounds), 4),
                "share": round(median(shares), 3),
                "share_least": round(min(shares), 3),
                "share_most": round(max(shares), 3),
                "rounds": len(rounds),
            }
        )
    return rows


def main() -> None:
    """Make the rows anew, or be one of the servers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of small calls")
    parser.add_argument("--out", type=Path, default=ROWS)
    parser.add_argument("--serve", choices=["bare", "takt"], help=argparse.SUPPRESS)
    parser.add_argument("--storage", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, StorageDir(options.storage)))
        return
    cores = sorted(os.sched_getaffinity(os.getpid()))
    if len(cores) < 2:
        sys.exit("needs two cores: one for the servers, one for the client")
    os.sched_setaffinity(os.getpid(), {cores[-1]})
    rows = rows_of(rounds_of(options.rounds, options.seconds))
    write_rows(options.out, rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
