"""Choices by measurement: the teacher that helps a student, the student that fits.

Not here: training them (cloud.training, edge.distill), the config of candidates
(common.config).
"""
