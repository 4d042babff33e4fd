"""Verified files: a release from the gateway to the node's disk.

`sync.sync_release` brings the newest release of a channel, `tuf_client` verifies its
metadata, `cache` keeps files by digest so that nothing is pulled twice.

Not here: the calls (edge.link), what is done with a release (edge.daemon). Torch-free.
"""
