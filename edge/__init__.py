"""Stage 2: a node that pulls releases and distils students inside hard caps.

`daemon` is the torch-free process that follows a channel, `distill` the training in
its capped child; `jobs` lies between the two, `releases` verifies files, `link` calls
the gateway, `limits` enforces the caps. Beside them: edge.toml (`config`), the node's
identity (`credentials`) and its state folder (`state`).

Not here: the commands of a node (deploy.cli.edge), the gateway (cloud).
"""
