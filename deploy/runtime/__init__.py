"""Around every verb: settings, exit codes, the terminal, processes, the machine.

Not here: verbs (deploy.cli), config classes (common.config).
"""
