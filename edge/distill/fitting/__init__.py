"""One student's training, by itself: a recipe and a task in, a student out.

`fit.fit_student` is all that callers need; `training` has the steps, epochs and
milestones, `learner` the weights and their average, `delta_memory` the perturbations
that are kept between epochs, `overfitting` the guard against catastrophic overfitting,
`checkpoint` the state on disk. Not here: the objectives (edge.distill.methods), images
and labels (edge.distill.sources), release and result files (edge.distill.run).
"""
