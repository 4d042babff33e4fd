"""Calls to the gateway over mutual TLS, as slow and as broken as a real link.

`client` has the calls of a node, `connection` the profile's rate, delay and cuts,
`channel` TLS, `retry` and `stall` what happens when no answer comes.

Not here: what files mean (edge.releases), when to call (edge.daemon). Torch-free.
"""
