"""The gRPC server that nodes talk to, alone or inside a Ray Serve replica.

`ray_serve` starts it under Serve, `server` is the server itself, `release_service`,
`fleet_service` and `teacher_service` are its three services; `interceptor` and
`authorization` are in front of all of them; `health` answers probes, `probe` asks;
`condition` finds what an operator must mend.

Not here: the files served (cloud.publishing), the authority (cloud.pki), what is
recorded of nodes (cloud.fleet).
"""
