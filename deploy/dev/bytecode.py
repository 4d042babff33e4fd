"""Write the bytecode of what takt imports, once, at the end of an install.

uv installs no bytecode, and where Python may not write any (some CI machines and
service managers say so) every process would compile torch again: 6 CPU-seconds
instead of 3, which is 24 s of wall time for a node held to a quarter of a core.
Compiling everything would cost 78 CPU-seconds; importing what is used, about 30
on two cores. Not here: any judgement; what cannot be imported is left alone.
"""

import contextlib
import importlib
import os
import sys

NODE = ("torch", "torchvision", "tuf.ngclient", "cryptography.x509", "grpc.aio")
CLOUD = (
    "typer",
    "rich.progress",
    "pydantic",
    "sqlalchemy.orm",
    "tuf.api.metadata",
    "ray.train",
    "ray.serve",
    "pyautoattack",
)


def write_bytecode(modules: tuple[str, ...]) -> None:
    """Import the modules, so that Python writes the bytecode of all they need."""
    sys.dont_write_bytecode = False  # whatever PYTHONDONTWRITEBYTECODE says
    for name in modules:
        with contextlib.suppress(ImportError):  # an edge node has no Ray
            importlib.import_module(name)


def main() -> None:
    """Import the node's modules in one process and the cloud's in another."""
    child = os.fork()  # keeps the installer's lock, unlike a new program
    if child == 0:
        write_bytecode(NODE)
        os._exit(0)
    write_bytecode(CLOUD)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
