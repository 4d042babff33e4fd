"""The files of Ray clusters, over ssh and on Kubernetes: read as their tools do.

Ray ships the schema of the one. Of the other, claim, service and pods are held to
Kubernetes' published schemas, and the RayJob around the pods to what KubeRay's
reference says (kuberay_schema.py). The resource definition that KubeRay publishes is
used as well where TAKT_KUBERAY_CRDS names a folder with ray.io_rayjobs.yaml.
"""

import copy
import json
import os
import shlex
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kuberay_schema import KUBERNETES, check_ray_job

from deploy.runtime.settings import load_run_config, parse_assignments

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CRDS = os.environ.get("TAKT_KUBERAY_CRDS")


def cluster() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(
        (DEPLOY / "ssh" / "ray-cluster.yaml").read_text()
    )
    return tree


def kubernetes() -> dict[str, dict[str, Any]]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "kuberay.yaml").read_text())
    return {document["kind"]: document for document in documents if document}


def pods() -> list[dict[str, Any]]:
    spec = kubernetes()["RayJob"]["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"] for group in groups]


def ray_schema() -> Any:
    found = find_spec("ray")
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent
    return json.loads((folder / "autoscaler" / "ray-schema.json").read_text())


def test_the_cluster_file_is_what_rays_own_schema_asks_for() -> None:
    jsonschema.validate(cluster(), ray_schema())


def test_the_schema_would_see_a_key_that_ray_does_not_know() -> None:
    with pytest.raises(jsonschema.ValidationError, match="worker_start_commands"):
        jsonschema.validate({**cluster(), "worker_start_commands": []}, ray_schema())


def test_the_cluster_may_have_all_its_workers() -> None:
    tree = cluster()
    assert tree["max_workers"] == len(tree["provider"]["worker_ips"])


def test_rays_token_is_asked_for_and_on_every_machine() -> None:
    tree = cluster()
    starts = [
        tree["head_start_ray_commands"][-1],
        tree["worker_start_ray_commands"][-1],
    ]
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "~/.ray/auth_token" in tree["file_mounts"]


@pytest.mark.parametrize("kind", ["PersistentVolumeClaim", "Service"])
def test_claim_and_service_are_what_kubernetes_published_schemas_ask_for(
    kind: str,
) -> None:
    kubernetes_validate.validate(kubernetes()[kind], KUBERNETES, strict=True)


def test_the_job_is_what_kuberay_accepts_down_to_its_pods() -> None:
    check_ray_job(kubernetes()["RayJob"])


@pytest.mark.parametrize(
    ("where", "key"),
    [
        ("spec", "entryPoint"),
        ("spec.rayClusterSpec.workerGroupSpecs.0", "maxReplica"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec", "volume"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0", "port"),
    ],
)
def test_a_misspelt_key_of_the_job_is_seen_at_every_depth(where: str, key: str) -> None:
    job = copy.deepcopy(kubernetes()["RayJob"])
    place: Any = job
    for step in where.split("."):
        place = place[int(step) if step.isdigit() else step]
    place[key] = {}
    with pytest.raises(jsonschema.ValidationError, match=key):
        check_ray_job(job)


@pytest.mark.skipif(CRDS is None, reason="TAKT_KUBERAY_CRDS names no folder of schemas")
def test_the_job_is_what_kuberays_published_schema_asks_for() -> None:
    definition = yaml.safe_load((Path(CRDS or "") / "ray.io_rayjobs.yaml").read_text())
    (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    jsonschema.validate(kubernetes()["RayJob"], closed(schema))


def closed(schema: Any) -> Any:
    """Refuse unknown keys, as the API server's strict validation does."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tight = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        tight.setdefault("additionalProperties", False)
        tight["properties"].setdefault("metadata", {})
    return tight


def test_the_jobs_command_is_one_that_takt_understands() -> None:
    words = shlex.split(kubernetes()["RayJob"]["spec"]["entrypoint"])
    assert words[:3] == ["takt", "cloud", "run"]
    sets = [value for name, value in pairwise(words) if name == "--set"]
    config, _ = load_run_config(
        words[words.index("--config") + 1], parse_assignments(sets)
    )
    assert config.gateway.names == ("gateway.example",)
    assert config.teacher.use_gpu


def test_the_service_leads_to_the_ports_of_the_gateway_on_the_head() -> None:
    service, head = kubernetes()["Service"]["spec"], pods()[0]
    assert service["selector"].items() <= head["metadata"]["labels"].items()
    entry = kubernetes()["RayJob"]["spec"]["entrypoint"]
    for port in service["ports"]:
        assert f"port={port['targetPort']}" in entry


def test_every_mount_has_its_volume_and_the_storage_is_the_claim() -> None:
    claim = kubernetes()["PersistentVolumeClaim"]
    for pod in pods():
        spec = pod["spec"]
        names = {volume["name"] for volume in spec["volumes"]}
        boxes = [*spec["containers"], *spec.get("initContainers", ())]
        mounts = {mount["name"] for box in boxes for mount in box["volumeMounts"]}
        assert mounts == names
        claims = [v["persistentVolumeClaim"] for v in spec["volumes"][:1]]
        assert claims == [{"claimName": claim["metadata"]["name"]}]


def test_no_pod_runs_as_root_or_gains_anything() -> None:
    for pod in pods():
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        for box in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())]:
            assert box["securityContext"]["allowPrivilegeEscalation"] is False
            assert box["securityContext"]["capabilities"] == {"drop": ["ALL"]}
