"""The `takt` command: one module for each group of verbs.

`main` has the top-level verbs and the entry point, `cloud`, `edge`, `pki` and `invite`
their groups; `options` has what several verbs share.

Not here: what the verbs do; each calls one function elsewhere.
"""
