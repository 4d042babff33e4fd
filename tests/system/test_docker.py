"""The compose file on a real engine: one run to its result, then one fault a test.

The tests share one project and stand in the order in which they run; each leaves
the three nodes of the config at work. `up`, and both compose tools' reading of the
file: test_compose.py.
"""

import json
import re
import time
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from docker_run import (
    FOURTH,
    KIB,
    OPTIONS,
    Seen,
    all_done,
    assert_pulled_once,
    first_run,
    in_state,
    is_reached_from,
    num_pulled,
    pulling_slowly,
    reached_from,
    run_config,
)
from docker_site import CONTAINERS, NODES, WAIT_S, Project, docker, left_of
from waiting import until

from common.config import CutConfig
from common.errors import ConfigError, IdentityError

pytestmark = [pytest.mark.docker, pytest.mark.timeout(5400)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    with first_run(tmp_path_factory.mktemp("docker") / "runs") as seen:
        yield seen


@pytest.fixture
def project(seen: Seen) -> Project:
    return seen.project


def test_one_command_ends_with_the_table_and_a_good_result(seen: Seen) -> None:
    assert (seen.code, seen.result["status"]) == (0, "ok"), seen.output[-3000:]
    assert [node["state"] for node in seen.result["nodes"]] == ["promoted"] * 4
    assert seen.result["verdict"] in " ".join(seen.output.split())
    assert (seen.folder / "report.html").stat().st_size > 10_000
    students = {f.stem for f in (seen.folder / "students").iterdir()}
    assert {*NODES, FOURTH} <= students  # beside those that they are compared with


def test_the_engine_holds_the_caps_of_the_config(project: Project, seen: Seen) -> None:
    for node in run_config().nodes:
        host = project.inspect(node.name)["HostConfig"]
        limit = node.profile.memory_mib * KIB * KIB
        assert (host["Memory"], host["MemorySwap"]) == (limit, limit)
        assert host["NanoCpus"] == node.profile.cpus * 1e9
        assert host["PidsLimit"] == 128
    caps = [node["cap"] for node in seen.result["nodes"]]
    assert caps == [{"method": "inherited", "hard": True}] * 4


def test_the_engine_confines_every_container(project: Project) -> None:
    for name in left_of(project.name, CONTAINERS):
        container = json.loads(docker("inspect", name).stdout)[0]
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"] and host["Init"] and host["CapDrop"] == ["ALL"]
        assert host["LogConfig"]["Config"] == {"max-size": "5m", "max-file": "2"}
        service = container["Config"]["Labels"]["com.docker.compose.service"]
        assert container["Config"]["User"] == ("0:0" if service == "runs" else "takt")


def test_a_nodes_network_is_that_of_its_profile(project: Project) -> None:
    profile = {node.name: node.profile for node in run_config().nodes}["camera"]
    assert (profile.delay_ms, profile.cuts) == (20, (CutConfig(after_s=2, for_s=3),))
    text = project.execute("camera", "cat", "/etc/takt/edge.toml").stdout
    assert tomllib.loads(text)["profile"] == json.loads(
        profile.model_dump_json(exclude_defaults=True)
    )


def test_a_nodes_key_is_in_its_own_volume_and_not_where_it_was_invited(
    project: Project,
) -> None:
    find = ("grep", "-rlI", "PRIVATE KEY", "/etc/takt", "/var/lib/takt")
    for node in ("hub", FOURTH):
        assert project.execute(node, *find).stdout.split() == [
            "/var/lib/takt/identity/node.key"
        ]


def test_a_node_reaches_the_gateway_and_nothing_else(project: Project) -> None:
    listen = "import socket, time; s = socket.create_server(('', 9999)); time.sleep(99)"
    others = [(project.address(node), 9999) for node in ("camera", FOURTH)]
    for node, place in zip(("camera", FOURTH), others, strict=True):
        name = project.container(node)
        assert docker("exec", "-d", name, "python3", "-c", listen).returncode == 0
        until(
            f"{node} listens",
            partial(is_reached_from, project, node, place),
            WAIT_S,
        )
    # There is somebody at each of these.
    ray = [(project.address("head"), port) for port in (6379, 7443)]
    assert reached_from(project, "worker", ray) == [True, True]
    named = [("camera", 9999), (FOURTH, 9999), ("head", 6379), ("gateway", 6379)]
    assert reached_from(project, "hub", [*ray, *others, *named]) == [False] * 8
    gateway = [("gateway", 7443), ("gateway", 7444)]
    assert reached_from(project, "hub", gateway) == [True, True]
    (network,) = project.inspect("hub")["NetworkSettings"]["Networks"]
    internal = docker("network", "inspect", "-f", "{{.Internal}}", network)
    assert internal.stdout.strip() == "true"  # no way out


def test_a_fourth_node_can_be_stopped(project: Project) -> None:
    stopped = project.compose("stop", FOURTH)
    assert stopped.returncode == 0, stopped.stderr
    state = project.inspect(FOURTH)["State"]
    assert (state["Running"], state["ExitCode"]) == (False, 0)


def test_a_node_of_another_authority_is_refused(project: Project) -> None:
    volumes = [f"{project.name}-{name}" for name in ("storage2", "join2", "state2")]
    image = project.inspect("head")["Config"]["Image"]
    edge_image = project.inspect("hub")["Config"]["Image"]
    shell = (
        "takt pki init --storage /storage && takt pki invite --config digits "
        "--storage /storage --out /join --gateway gateway:7443 --enroll gateway:7444"
    )
    storage, join, state = volumes
    try:
        made = docker(
            *("run", "--rm", "--network", "none", "--entrypoint", "sh"),
            *("-v", f"{storage}:/storage", "-v", f"{join}:/join", image, "-c", shell),
        )
        assert made.returncode == 0, made.stderr
        refused = docker(
            *("run", "--rm", "--network", f"{project.name}_hub"),
            *("-v", f"{join}:/join:ro", "-v", f"{state}:/var/lib/takt"),
            *("-e", "TAKT_TOKEN_FILE=/join/hub/token", "--entrypoint", "sh"),
            edge_image,
            "-c",
            "exec takt edge run --config /join/hub/edge.toml",
        )
    finally:
        docker("volume", "rm", *volumes)
    assert refused.returncode == IdentityError.exit_code, refused.stderr
    assert "gateway:7444" in refused.stderr


def test_a_node_killed_while_it_distils_goes_on_and_pulls_nothing_twice(
    project: Project, seen: Seen
) -> None:
    version = project.publish(f"{OPTIONS} --set students.medium.tuning.epochs=600")
    in_state(project, "hub", version, "distilling")
    until("two epochs", lambda: project.status("hub").get("epoch", 0) >= 2, WAIT_S)
    before = project.inspect("hub")["RestartCount"]
    project.kill("hub", "edge run")
    all_done(project, version)
    assert project.inspect("hub")["RestartCount"] == before + 1
    report = project.reports(version)["hub"]
    assert report["outcome"] in ("promoted", "kept")
    # What was pulled since the restart: metadata, and no shard of the release, of
    # which there are four for this node.
    assert int(report["pulled_bytes"]) < seen.result["release"]["bytes"] / 6


def test_a_gateway_killed_while_a_node_pulls_comes_back_and_no_byte_is_pulled_twice(
    project: Project,
) -> None:
    def gateway_pid() -> int:
        text = project.execute("head", "cat", "/storage/gateway.json").stdout
        return int(json.loads(text)["pid"])

    with pulling_slowly(project, "sensor") as version:
        before = gateway_pid()
        project.kill("head", "ServeReplica:takt:gateway")
        assert project.status("sensor")["state"] in ("pulling", "backing-off")
        there = num_pulled(project, "sensor")
        all_done(project, version)
    assert there < num_pulled(project, "sensor")  # it had been in the middle of it
    assert gateway_pid() != before
    assert_pulled_once(project, "sensor", version)


def test_a_node_cut_off_for_half_a_minute_finishes_and_pulls_no_byte_twice(
    project: Project,
) -> None:
    network, name = f"{project.name}_camera", project.container("camera")
    with pulling_slowly(project, "camera") as version:
        assert docker("network", "disconnect", network, name).returncode == 0
        try:
            time.sleep(30)  # the outage itself
            assert project.status("camera")["state"] != "idle"
        finally:
            assert docker("network", "connect", network, name).returncode == 0
        all_done(project, version)
    assert_pulled_once(project, "camera", version)


def test_nodes_that_were_down_catch_up_with_what_was_published_meanwhile(
    project: Project,
) -> None:
    stopped = project.compose("stop", "sensor", "hub")
    assert stopped.returncode == 0, stopped.stderr
    project.publish(OPTIONS)
    version = project.publish(OPTIONS)
    assert project.compose("start", "sensor", "hub").returncode == 0
    all_done(project, version)


def test_a_node_with_too_little_memory_says_so_and_the_others_finish(
    project: Project,
) -> None:
    again = ("up", "-d", "--no-deps", "sensor")
    assert project.compose(*again, TAKT_SENSOR_MEMORY="200m").returncode == 0
    until("sensor's words", lambda: "too small" in project.logs("sensor"), WAIT_S)
    assert "memory cap 200 MiB is too small" in project.logs("sensor")
    version = project.publish(OPTIONS)
    for node in ("camera", "hub"):
        in_state(project, node, version, "idle")
    assert project.compose(*again).returncode == 0
    all_done(project, version)


def test_a_training_whose_worker_is_killed_goes_on_from_its_last_epoch(
    project: Project,
) -> None:
    command = "takt cloud train --config digits --storage /storage/again"
    command += " --address head:6379 --set teacher.epochs=5"
    progress = "/storage/again/progress.jsonl"
    docker(
        *("exec", "-d", project.container("head"), "sh", "-c"),
        f"{command} > /storage/again.log 2>&1; echo $? > /storage/again.code",
    )

    def epochs() -> list[int]:
        lines = project.execute("head", "cat", progress).stdout.splitlines()
        return [json.loads(line)["epoch"] for line in lines]

    until("two epochs", lambda: len(epochs()) >= 2, WAIT_S)
    assert docker("kill", "-s", "KILL", project.container("worker")).returncode == 0
    assert docker("start", project.container("worker")).returncode == 0
    code = ("cat", "/storage/again.code")
    until(
        "its end",
        lambda: project.execute("head", *code).stdout.strip() != "",
        WAIT_S,
    )
    log = project.execute("head", "cat", "/storage/again.log").stdout
    assert project.execute("head", *code).stdout.strip() == "0", log
    assert sorted(set(epochs())) == [1, 2, 3, 4, 5]


def test_a_wrong_config_ends_the_run_with_its_code_and_one_line_and_down_removes_all(
    project: Project, tmp_path: Path
) -> None:
    wrong = {**project.environment, "TAKT_OPTIONS": "--set teacher.epoch=4"}
    other = Project(project.tool, tmp_path / "runs", {**wrong, "TAKT_NODES": "3"})
    try:
        done = other.compose("run", "-T", "--rm", "report")
        assert done.returncode == ConfigError.exit_code, done.stderr[-2000:]
        said = re.findall("^takt: .*$", done.stdout + done.stderr, re.M)
        assert said == [
            "takt: --set teacher.epoch=4: unknown key 'teacher.epoch'; did you mean "
            "'epochs'?"
        ]
    finally:
        down = other.compose("down", "-v", "--timeout", "5")
        left = left_of(other.name)
        other.down()
    assert (down.returncode, left) == (0, [])
