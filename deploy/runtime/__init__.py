"""Around every verb: settings, exit codes, the terminal, processes, the machine.

`settings.load_run_config` reads a config with options on top, `exits.run` turns errors
and signals into exit codes, `terminal.quiet_output` keeps libraries off the terminal,
`progress.Display` shows what takes long, `paths` reads what users type as one,
`processes` and `worker_pool` start and end children, `machine` names cores and
versions.

Not here: verbs (deploy.cli), config classes (common.config).
"""
