"""Ray itself: starting or joining a cluster, its environment, and what it leaves.

`local` starts or joins a cluster, `environment` is what its processes get, `cleanup`
removes what dead clusters left behind.

Not here: jobs that run on it (cloud.training, cloud.extraction, cloud.gateway).
"""
