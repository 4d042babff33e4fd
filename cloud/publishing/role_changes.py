"""Other keys or another threshold for a role, as a change of the root's content.

Pure functions of a root. Not here: signing it (`cloud.publishing.tuf_metadata`).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from securesystemslib.signer import Key
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root

from cloud.publishing.roles import ROLES, SHORT
from common.errors import ConfigError


@dataclass(frozen=True)
class RoleChange:
    """What becomes of a role's keys.

    Attributes:
        role: root, targets, snapshot or timestamp.
        add: public parts of keys that may sign for it from now on.
        remove: key ids, or their first digits, that may not any more.
        threshold: how many keys have to sign; None: as before.
    """

    role: str
    add: tuple[Key, ...] = ()
    remove: tuple[str, ...] = ()
    threshold: int | None = None


def check_role(role: str, roles: Sequence[str] = ROLES) -> None:
    """Check the name of a role.

    Raises:
        ConfigError: it is none of `roles`.
    """
    if role not in roles:
        raise ConfigError(f"role {role!r}: expected one of {', '.join(roles)}")


def changed(root: Root, change: RoleChange) -> Root:
    """Return a root with a role's keys changed; its version is as before.

    Raises:
        ConfigError: there is no such role or key, a key is there already, or the
            threshold is not from 1 to the number of keys.
    """
    check_role(change.role)
    result = copy.deepcopy(root)
    role = result.roles[change.role]
    for key in change.add:
        if key.keyid in role.keyids:
            raise ConfigError(f"{change.role} has key {key.keyid[:SHORT]} already")
        result.add_key(key, change.role)
    for prefix in change.remove:
        result.revoke_key(find_key(role.keyids, change.role, prefix), change.role)
    if change.threshold is not None:
        role.threshold = change.threshold
    if not 1 <= role.threshold <= len(role.keyids):
        raise ConfigError(
            f"{change.role} would need {role.threshold} signatures of "
            f"{len(role.keyids)} keys, expected from 1 to their number; give "
            "--threshold, or --add more keys"
        )
    return result


def joined(root: Root, following: Root, role: str) -> Root:
    """Return a root in between: a role's old keys and its new ones, either enough.

    The keys that `following` has are the last ones.
    """
    result = copy.deepcopy(root)
    for keyid in following.roles[role].keyids:
        if keyid not in result.roles[role].keyids:
            result.add_key(following.keys[keyid], role)
    result.roles[role].threshold = min(
        root.roles[role].threshold, following.roles[role].threshold
    )
    return result


def accepts(root: Root, metadata: Metadata[Any]) -> bool:
    """Tell whether metadata has the signatures that a root asks for."""
    try:
        root.verify_delegate(
            metadata.signed.type, metadata.signed_bytes, metadata.signatures
        )
    except UnsignedMetadataError:
        return False
    return True


def find_key(keyids: Sequence[str], role: str, prefix: str) -> str:
    """Return the key id of a role that begins so.

    Raises:
        ConfigError: none does, or several.
    """
    found = [keyid for keyid in keyids if keyid.startswith(prefix)]
    if len(found) != 1 or len(prefix) < 8:
        known = ", ".join(keyid[:SHORT] for keyid in keyids)
        raise ConfigError(
            f"{role} has no key {prefix!r}, expected eight digits or more of one of "
            f"{known}"
        )
    return found[0]
