"""What takt takes for its cores and memory inside a container that has less."""

import json
import os
from typing import Any

import pytest
from docker_run import base_image
from docker_site import ROOT, docker

from common.effective_limits import usable_cores

pytestmark = pytest.mark.docker

# Nothing that these import has to be installed.
COUNT = """
import json
from dataclasses import asdict
from common.effective_limits import effective_limits, usable_cores
print(json.dumps({"cores": usable_cores(), **asdict(effective_limits())}))
"""


@pytest.fixture(scope="module")
def image() -> str:
    """Give any image with Python, or skip the test."""
    if docker("info").returncode != 0:
        pytest.skip("no Docker engine answers")
    return os.environ.get("TAKT_BASE_IMAGE") or base_image()["TAKT_BASE_IMAGE"]


def counted(image: str, *options: str) -> dict[str, Any]:
    """Ask a container with these options."""
    done = docker(
        *("run", "--rm", "--network", "none", "-v", f"{ROOT}:/takt:ro", "-w", "/takt"),
        *(*options, image, "python3", "-B", "-c", COUNT),
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_container_without_limits_has_the_cores_of_its_host(image: str) -> None:
    assert counted(image)["cores"] == usable_cores()


@pytest.mark.parametrize(("cpus", "cores"), [("0.5", 1), ("1", 1)])
def test_a_containers_quota_counts_not_the_cores_of_its_host(
    image: str, cpus: str, cores: int
) -> None:
    found = counted(image, "--cpus", cpus)
    assert (found["cores"], found["cpus"]) == (cores, float(cpus))
    if usable_cores() > cores:
        assert found["cpus_by"] == "its control group"


def test_a_containers_cores_are_those_it_is_pinned_to(image: str) -> None:
    assert counted(image, "--cpuset-cpus", "0")["cores"] == 1


def test_a_containers_memory_is_its_limit(image: str) -> None:
    found = counted(image, "--memory", "512m")
    assert (found["memory_mib"], found["memory_by"]) == (512, "its control group")
