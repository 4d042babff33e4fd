"""The compose file and the Dockerfile, read and judged without an engine.

What happens when it runs is in test_docker.py. Compose's own reading of the file
is asked for where one of its tools is installed.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker_site import compose_tools
from waiting import WAIT_S

from deploy.runtime.settings import load_run_config

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "containers"
COMPOSE = DEPLOY / "compose.yaml"
NODES = ("sensor", "camera", "hub", "sensor-2", "camera-2", "hub-2")
FORWARDERS = tuple(f"{node}-forwarder" for node in NODES)


def document() -> dict[str, Any]:
    """The file with every variable at its default, anchors merged."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text())
    tree: dict[str, Any] = yaml.safe_load(text)
    return tree


SERVICES: dict[str, Any] = document()["services"]


def networks_of(service: str) -> set[str]:
    return set(SERVICES[service].get("networks", ()))


@pytest.fixture(params=["docker compose", "docker-compose"])
def tool(request: pytest.FixtureRequest) -> list[str]:
    command: list[str] = request.param.split()
    if command not in compose_tools():
        pytest.skip(f"{request.param} is not installed")
    return command


def reading(tool: list[str], num_nodes: int) -> "subprocess.CompletedProcess[str]":
    """Have a compose tool read the file."""
    return subprocess.run(
        [*tool, "-f", str(COMPOSE), "config"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env={**os.environ, "TAKT_NODES": str(num_nodes)},
    )


@pytest.mark.parametrize("num_nodes", [3, 5, 6])
def test_a_compose_tool_reads_as_many_nodes_as_wanted(
    tool: list[str], num_nodes: int
) -> None:
    done = reading(tool, num_nodes)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services.keys() | {"compare"} == SERVICES.keys()
    there = {name for name in services if services[name].get("scale", 1) == 1}
    config, _ = load_run_config("digits", {"num_nodes": num_nodes})
    assert {node.name for node in config.nodes} == there & set(NODES)
    assert {f"{node.name}-forwarder" for node in config.nodes} == there & set(
        FORWARDERS
    )


def test_a_compose_tool_refuses_more_nodes_than_the_file_has(tool: list[str]) -> None:
    done = reading(tool, 7)
    assert done.returncode != 0 and "-of-7" in done.stdout + done.stderr


def test_the_nodes_are_those_of_the_default_config_with_its_caps() -> None:
    config, _ = load_run_config("digits", {"num_nodes": len(NODES)})
    wanted = {
        node.name: (node.profile.cpus, f"{node.profile.memory_mib}m")
        for node in config.nodes
    }
    found = {
        node: (SERVICES[node]["cpus"], SERVICES[node]["mem_limit"]) for node in NODES
    }
    assert found == wanted


@pytest.mark.parametrize("service", SERVICES)
def test_no_container_may_swap_beyond_its_memory_limit(service: str) -> None:
    settings = SERVICES[service]
    assert settings["memswap_limit"] == settings["mem_limit"]
    assert settings["pids_limit"] > 0


@pytest.mark.parametrize("service", SERVICES)
def test_every_container_is_confined(service: str) -> None:
    settings = SERVICES[service]
    assert settings["init"] and settings["read_only"]
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["logging"]["options"].keys() == {"max-size", "max-file"}
    assert settings["stop_grace_period"]


def test_only_the_container_that_gives_away_a_folder_is_root() -> None:
    assert [name for name in SERVICES if SERVICES[name].get("user")] == ["runs"]
    assert SERVICES["runs"]["cap_add"] == ["CHOWN"]
    assert SERVICES["runs"]["network_mode"] == "none"


@pytest.mark.parametrize("node", NODES)
def test_a_node_shares_a_network_with_its_forwarder_alone(node: str) -> None:
    (network,) = networks_of(node)
    on_it = [service for service in SERVICES if network in networks_of(service)]
    assert on_it == [f"{node}-forwarder", node]
    assert document()["networks"][network] == {"internal": True}


@pytest.mark.parametrize("forwarder", FORWARDERS)
def test_a_forwarder_passes_the_gateways_two_ports_and_no_other(forwarder: str) -> None:
    assert SERVICES[forwarder]["command"] == ["7443=head:7443", "7444=head:7444"]


@pytest.mark.parametrize("node", NODES)
def test_a_nodes_state_where_its_key_is_made_is_mounted_nowhere_else(node: str) -> None:
    holders = {
        service
        for service, settings in SERVICES.items()
        for volume in settings.get("volumes", ())
        if volume.startswith(f"{node}-state:")
    }
    assert holders == {node}


@pytest.mark.parametrize("folder", ["keys", "pki"])
def test_private_keys_are_mounted_where_they_are_used_and_nowhere_else(
    folder: str,
) -> None:
    holders = {
        service
        for service, settings in SERVICES.items()
        if f"{folder}:/storage/{folder}" in settings.get("volumes", ())
    }
    # Whoever has the storage folder alone finds an empty folder in their place.
    assert holders == {"bootstrap", "head"}
    assert f"/storage/{folder}" in (DEPLOY / "Dockerfile").read_text()


@pytest.mark.parametrize("node", NODES)
def test_a_node_cannot_change_what_invites_it_nor_the_data(node: str) -> None:
    volumes = SERVICES[node]["volumes"]
    assert f"{node}-join:/etc/takt:ro" in volumes and "data:/data:ro" in volumes
    assert not [volume for volume in volumes if volume.startswith("storage")]


def test_the_comparison_is_the_report_with_one_more_option() -> None:
    report, compare = SERVICES["report"], SERVICES["compare"]
    assert compare["command"].split() == [*report["command"].split(), "--compare"]
    assert compare["profiles"] == ["compare"]
    assert compare["volumes"] == report["volumes"]


def test_every_variable_has_a_commented_default_in_the_env_file() -> None:
    text = COMPOSE.read_text()
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    commented = re.findall(r"^#(TAKT_\w+)=(.*)$", (DEPLOY / ".env").read_text(), re.M)
    assert dict(commented) == defaults


def test_every_variable_has_one_default() -> None:
    pairs = set(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text()))
    assert len(pairs) == len({name for name, _ in pairs})


def test_the_dockerfile_keeps_to_the_classic_builders_syntax() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert not re.search(r"--mount|--link|<<|^# syntax", text, re.M)


def test_the_edge_image_is_built_without_the_clouds_libraries() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert "FROM edge-libraries AS edge\n" in text
    assert "FROM edge-libraries AS cloud-libraries\n" in text
