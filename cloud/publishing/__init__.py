"""The signed repository: a knowledge release becomes files that a node can trust.

`publish.publish_release` writes a release; `repository.ReleaseRepository` is the TUF
repository, with its metadata (`tuf_metadata`) and keys (`signing_keys`), which
`ceremony.Ceremony` changes.

Not here: serving the files (cloud.gateway), verifying them on a node (edge.releases),
certificates of nodes (cloud.pki).
"""
