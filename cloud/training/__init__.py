"""Stage 1: data to teacher, adversarially trained as a Ray Train job.

`job.train` runs it on a cluster; `teacher.fit_teacher` is the training itself, plain
PyTorch that also runs without Ray; `teacher_files` names the files that it leaves,
`teacher_card` describes the teacher in them.

Not here: what is taken out of the teacher (cloud.extraction), attacks and models
(common). Importing a module of this wing imports torch, except `job`'s callers' names
in `teacher_files`.
"""
