"""Methods side by side at equal node CPU-seconds: `takt compare`.

`grid` reads what is compared, `run` composes it, `worker` trains and evaluates one
row in a process of its own, `rows` keeps what was measured, `tables` and `plots` show
it.

Not here: the methods (edge.distill), baselines inside a simulation
(deploy.simulation.baselines).
"""
