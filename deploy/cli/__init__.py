"""The `takt` command: one module for each group of verbs.

`main` has the top-level verbs and the entry point (`main`, `invoke`); `cloud`, `edge`
and others are groups of verbs, `options` has what several of them share, `long_verbs`
what all have that take long.

Not here: what the verbs do; each calls one function elsewhere.
"""
