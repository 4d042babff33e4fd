"""The whole system on one machine: `takt simulate`, from data to a report.

`simulate.run_simulation` does the phases of a run; `collect.collect_run` does those of
a run whose parts run elsewhere. Both put what they find into a `run_state.RunState`.
From it `live_view` shows the run while it goes on, and `lifecycle` writes the record
when it ends. `nodes` are the daemons, `node_reports` and `references` collect what they
and their baselines make, `run_folder` has the paths, `phases` the times.

Not here: comparing methods (deploy.compare), the page and table (deploy.report), the
cloud side (deploy.cloud_side).
"""
