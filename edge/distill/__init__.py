"""Stage 2: teacher to student, in a capped child process (``python -m edge.distill``).

`run.distil` reads a job and a release and writes a student; `fit.fit_student` is the
training by itself, of a recipe on a `task.Task`, which the comparison also calls;
`losses` holds the objectives, each with its paper.

Not here: the process and its caps (edge.jobs, edge.limits), pulling a release
(edge.releases). Every module of this wing may import torch.
"""
