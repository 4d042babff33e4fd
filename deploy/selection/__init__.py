"""Selection by measurement: the teacher that helps a student, the student that fits.

`teacher.make_teacher` trains a run's teacher, or the best of its candidates by `score`;
`student.select_student` is `takt fit`.

Not here: training them (cloud.training, edge.distill), the config of candidates
(common.config).
"""
