"""`takt cloud check`: does the gateway of a storage folder answer?

Opens a TLS connection to both of its ports and checks them against the project's
authority, as a node would. Not here: what the gateway serves.
"""

import socket
import ssl

from cloud.gateway.addresses import Addresses, join
from cloud.storage import StorageDir
from common.errors import LinkError, StorageError

_ANSWER_S = 5.0


def check_gateway(storage: StorageDir) -> str:
    """Return the address that answered.

    Raises:
        LinkError: no gateway was started there, or it does not answer.
        StorageError: the project's authority cannot be read.
    """
    addresses = Addresses.load(storage)
    if addresses is None:
        raise LinkError(
            f"no gateway has served {storage.root} yet; start one with `takt cloud "
            "serve`"
        )
    authority = storage.ca
    try:
        context = ssl.create_default_context(cafile=str(authority))
    except OSError as e:
        raise StorageError(
            f"cannot read {authority}: {e.strerror or e}; check as the user who runs "
            "the gateway"
        ) from e
    context.set_alpn_protocols(["h2"])
    try:
        for port in (addresses.port, addresses.enroll_port):
            host = addresses.reachable_host
            with (
                socket.create_connection((host, port), _ANSWER_S) as plain,
                context.wrap_socket(plain, server_hostname="localhost"),
            ):
                pass
    except OSError as e:  # ssl's errors among them
        raise LinkError(
            f"the gateway at {join(addresses.reachable_host, port)} does not answer: "
            f"{e.strerror or e}; see {storage.gateway_log}"
        ) from e
    return addresses.address
