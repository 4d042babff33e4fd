"""How long the lists of a node's report may be: a node keeps to it, a gateway holds it.

Not here: the bounds of all other fields (cloud.fleet.bounds), the report's messages
(common.pb).
"""

MAX_CURVE = 4096  # points, some 40 bytes each: within the bytes of one message
MAX_NOTES = 16
