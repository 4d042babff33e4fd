"""What KubeRay accepts in a RayJob: its fields and their types, as a JSON schema.

Written by hand from KubeRay's API reference (docs/reference/api.md of
ray-project/kuberay): what the fields of RayJobSpec, RayClusterSpec, their groups and
options are called, and their types. The resource definition itself, of a megabyte, is
not on any package index. Most of it is the pod templates, and those are Kubernetes'
own: they refer to its published schemas, which kubernetes-validate ships. Unknown keys
are refused, as the API server's strict validation does. Not here: fields that came
after KubeRay 1.4, but for authOptions; rules between fields.
"""

import json
from importlib.resources import files
from typing import Any

import jsonschema
from referencing import Registry, Resource

KUBERNETES = "1.34.0"  # served by the versions that KubeRay 1.5 supports
DEFINITIONS = "https://kubernetes.io/api/_definitions.json"
META = "io.k8s.apimachinery.pkg.apis.meta.v1"
TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
NUMBER = {"type": "number"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def one_of(*words: str) -> dict[str, Any]:
    return {"enum": list(words)}


def some(kind: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": kind}


def record(required: str = "", **fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


def core(name: str) -> dict[str, Any]:
    """Refer to one of Kubernetes' own types."""
    return {"$ref": f"{DEFINITIONS}#/$defs/io.k8s.api.core.v1.{name}"}


AUTOSCALER = record(
    resources=core("ResourceRequirements"),
    image=TEXT,
    imagePullPolicy=one_of("Always", "Never", "IfNotPresent"),
    securityContext=core("SecurityContext"),
    idleTimeoutSeconds=WHOLE,
    upscalingMode=one_of("Default", "Aggressive", "Conservative"),
    version=one_of("v1", "v2"),
    env=some(core("EnvVar")),
    envFrom=some(core("EnvFromSource")),
    volumeMounts=some(core("VolumeMount")),
)
REDIS = record(value=TEXT, valueFrom=core("EnvVarSource"))
HEAD_GROUP = record(
    "template",
    template=core("PodTemplateSpec"),
    headService=core("Service"),
    enableIngress=FLAG,
    rayStartParams=TEXTS,
    serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
)
WORKER_GROUP = record(
    "groupName maxReplicas minReplicas template",
    suspend=FLAG,
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    idleTimeoutSeconds=WHOLE,
    rayStartParams=TEXTS,
    template=core("PodTemplateSpec"),
    scaleStrategy=record(workersToDelete=some(TEXT)),
    numOfHosts=WHOLE,
)
CLUSTER_SPEC = record(
    "headGroupSpec",
    suspend=FLAG,
    managedBy=TEXT,
    authOptions=record(mode=one_of("disabled", "token")),
    autoscalerOptions=AUTOSCALER,
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=record(
        redisUsername=REDIS,
        redisPassword=REDIS,
        externalStorageNamespace=TEXT,
        redisAddress=TEXT,
    ),
    headGroupSpec=HEAD_GROUP,
    rayVersion=TEXT,
    workerGroupSpecs=some(WORKER_GROUP),
)
JOB_SPEC = record(
    activeDeadlineSeconds=WHOLE,
    backoffLimit=WHOLE,
    rayClusterSpec=CLUSTER_SPEC,
    submitterPodTemplate=core("PodTemplateSpec"),
    metadata=TEXTS,
    clusterSelector=TEXTS,
    submitterConfig=record(backoffLimit=WHOLE),
    managedBy=TEXT,
    deletionStrategy={"type": "object"},
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode"),
    entrypointResources=TEXT,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    ttlSecondsAfterFinished=WHOLE,
    shutdownAfterJobFinishes=FLAG,
    suspend=FLAG,
)
RAY_JOB = record(
    "apiVersion kind metadata spec",
    apiVersion=one_of("ray.io/v1"),
    kind=one_of("RayJob"),
    metadata={"$ref": f"{DEFINITIONS}#/$defs/{META}.ObjectMeta"},
    spec=JOB_SPEC,
)


def check_ray_job(document: Any) -> None:
    """Raise jsonschema.ValidationError where KubeRay would refuse a RayJob."""
    folder = files("kubernetes_validate") / "kubernetes-json-schema"
    path = folder / f"v{KUBERNETES}-local-strict" / "_definitions.json"
    definitions = Resource.from_contents(json.loads(path.read_text()))
    registry = Registry().with_resource(DEFINITIONS, definitions)
    jsonschema.Draft202012Validator(RAY_JOB, registry=registry).validate(document)
