"""Between the daemon and its child: the job's files, running it, sizing it.

`job` has the messages between the two, `runner` starts the child inside its caps and
follows it, `sizing` measures what a recipe needs on this machine.

Not here: the training (edge.distill), the caps themselves (edge.limits). Torch-free.
"""
