"""How robust a model is: attacks, AutoAttack, and flags for doubtful results.

`attacks` has PGD and FGSM, `autoattack` runs the authors' package, `evaluate` is the
one way to a clean and a robust accuracy, `radii` has it at several eps, `sanity` raises
the flags (zero gradients, randomness, a collapsed model).

Not here: training (cloud.training, edge.distill), which models are evaluated when
(deploy.evaluation).
"""
