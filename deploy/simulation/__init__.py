"""The whole system on one machine: `takt simulate`, from data to a report.

`simulate` is the composition, `phases` its steps, `run_folder` the files of a run,
`lifecycle` how a run begins and ends; `collect` makes the same report of a real
cluster and its nodes.

Not here: comparing methods (deploy.compare), the page and table (deploy.report).
"""
