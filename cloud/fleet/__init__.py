"""What nodes report: their heartbeats and results, kept in a database.

`database.Fleet` stores and answers, `bounds` refuses values that cannot be true.

Not here: the gRPC service that receives reports (cloud.gateway.fleet_service), who
may send them (cloud.pki).
"""
