"""Methods side by side at equal node CPU-seconds: `takt compare`.

`run.run_compare` is the command: `grid` reads what is compared, `teacher` makes a
teacher and its knowledge, `worker` trains and evaluates students in a process of its
own, `rows` keeps what was measured, `tables` and `plots` show it.

Not here: the methods (edge.distill), baselines inside a simulation
(deploy.simulation.references).
"""
