"""Joining a fleet: a one-time token becomes this node's certificate.

The server is verified with the project CA that the operator provides; the private
key stays on the node. Enrolling again keeps the key. Without a network: `make_request`,
`takt pki sign`, then node.crt, ca.crt and root.json copied into the folder. Not
here: the files and their checks (edge/credentials.py).
"""

import contextlib
import threading

from common.durable import make_folder
from common.errors import IdentityError
from common.ownership import require_own_folder
from edge.config import EdgeConfig
from edge.credentials import (
    CA,
    Certificates,
    Identity,
    being_changed,
    make_request,
    store_certificate,
)
from edge.link.client import Link
from edge.link.connection import Connection, ConnectionOptions
from edge.state import StateDir


def enroll(
    config: EdgeConfig, token: str, *, stop: threading.Event | None = None
) -> Identity:
    """Enrol the node of `config` and store its identity.

    The steps of a daemon's renewal that change the identity wait until it is done.

    Raises:
        IdentityError: no CA or address is configured, the token was refused, or
            the answer does not fit the key, the name or the CA.
        LinkError: the enrolment port cannot be reached within the deadline.
        StorageError: the state folder cannot be written, or another user may change
            what lies in it.
    """
    require_own_folder(config.state_dir)
    folder = StateDir(config.state_dir).identity
    ca_file = config.ca or folder / CA
    if not ca_file.is_file():
        raise IdentityError(
            f"project CA {ca_file} is missing; copy ca.crt from the gateway's machine "
            "and set `ca` in edge.toml"
        )
    if config.enroll is None:
        raise IdentityError(
            'no enrolment address; set `enroll = "host:port"` in edge.toml'
        )
    options = ConnectionOptions(
        deadline_s=config.deadline_s, stall_s=config.stall_s, proxy=config.proxy
    )
    connection = Connection(config.enroll, Certificates(ca_file), options, stop=stop)
    link = Link(connection)
    make_folder(folder, mode=0o700)
    # A renewal replaces the key: not between the request and its answer.
    with contextlib.closing(link), being_changed(folder):
        request = make_request(folder, config.node)
        response = link.enroll(config.node, token, request)
        return store_certificate(
            folder,
            node=config.node,
            certificate_pem=response.certificate_pem,
            ca_pem=response.ca_pem,
            root_json=response.root_json,
            channel=response.channel or None,
        )
