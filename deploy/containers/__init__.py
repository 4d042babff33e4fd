"""takt in containers: Dockerfile, compose files, a base image, and a port forwarder.

Not here: Kubernetes (deploy/kubernetes), machines over ssh (deploy/ssh).
"""
