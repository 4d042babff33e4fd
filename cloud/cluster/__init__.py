"""Ray itself: starting or joining a cluster, its environment, and what it leaves.

`local` starts or joins a cluster, `environment` is what its processes get, `cleanup`
ends its processes, `driver` is shared by the jobs that run on it.

Not here: jobs that run on it (cloud.training, cloud.extraction, cloud.gateway).
"""
