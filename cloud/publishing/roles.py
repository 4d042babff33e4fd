"""The roles that sign a repository (TUF), and how their keys are named to people.

Not here: the keys (`cloud.publishing.signing_keys`), thresholds and ends
(`cloud.publishing.tuf_metadata`).
"""

ROLES = ("root", "targets", "snapshot", "timestamp")
OFFLINE = ("root", "targets")  # which may be signed on another machine
ONLINE = ("snapshot", "timestamp")  # which the gateway signs, in the order of signing
TIMESTAMP_FILE = "timestamp.json"  # the one metadata file without a version
SHORT = 16  # digits of a key id that takt prints and accepts
