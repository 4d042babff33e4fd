"""Who nodes are: the certificate authority, certificates and the allow-list.

`authority.Authority` signs, `certificates` makes and reads X.509, `allowlist.Allowlist`
holds which names may connect and which tokens may enrol.

Not here: the keys that sign releases (cloud.publishing.signing_keys), checking a call
(cloud.gateway.authorization).
"""
