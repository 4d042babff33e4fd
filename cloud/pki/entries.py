"""What the allow-list knows of each node: its state, token and certificates.

Not here: the file and its rules (`cloud.pki.allowlist`).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """What a token was traded for, to be given again where the answer was lost."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    token_sha256: str
    key_sha256: str  # of the public key in the signing request
    certificate_pem: str
    expires: datetime


@dataclass(frozen=True)
class Signed:
    """A certificate that is new, and what identifies it."""

    pem: bytes
    certificate_sha256: str  # hex, of the DER form
    serial: int
    key_sha256: str  # hex, of its public key
    ends: datetime
    issuer_sha256: str  # hex, of its authority's certificate


class Renewed(BaseModel):
    """A certificate that a node was given over the node port, and has not used yet."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    certificate_sha256: str
    serial: str
    key_sha256: str
    certificate_pem: str
    ends: datetime
    issuer_sha256: str


class Entry(BaseModel):
    """The entry of one node; times are UTC."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: Literal["invited", "allowed", "revoked"]
    token_sha256: str | None = None  # None: used up
    token_expires: datetime | None = None
    certificate_sha256: str | None = None  # of the DER form; only the latest counts
    serial: str | None = None
    ends: datetime | None = None  # of that certificate; None: made by an older takt
    issuer_sha256: str | None = None
    renewed: datetime | None = None  # when the node was last given another one
    invited: datetime | None = None
    allowed: datetime | None = None
    revoked: datetime | None = None
    answer: Answer | None = None  # None: none, or void
    next: Renewed | None = None  # takes the certificate's place when it is used
