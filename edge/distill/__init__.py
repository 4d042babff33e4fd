"""Stage 2: teacher to student, in a capped child process (``python -m edge.distill``).

`run.distil` reads a job and a release and writes a student; `fitting.fit.fit_student`
is the training by itself, of a recipe on a `task.Task`, which the comparison also
calls; `methods` holds the objectives, each with its paper; `sources` has the images and
what is known of them, `teacher` the gateway's teacher.

Not here: the process and its caps (edge.jobs, edge.limits), pulling a release
(edge.releases). Every module of this wing may import torch.
"""
