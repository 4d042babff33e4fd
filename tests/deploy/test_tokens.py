"""Tokens of nodes: where they are read from, and who does not get to see them."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from edge_site import edge_site
from waiting import WAIT_S

from deploy.runtime.settings import load_run_config
from deploy.simulation.nodes import NodeSite, SimulatedNodes
from edge.config import save_edge_config


def test_no_token_is_in_the_environment_of_a_simulated_node(tmp_path: Path) -> None:
    config, _ = load_run_config("digits-same")
    site = NodeSite("127.0.0.1:9", "127.0.0.1:9", tmp_path / "ca.crt", None, 0)
    (tmp_path / "logs").mkdir()
    nodes = SimulatedNodes(
        config.nodes[:1], folder=tmp_path / "nodes", logs=tmp_path / "logs"
    )
    name = config.nodes[0].name
    with nodes:
        nodes.start(site, lambda node: f"secret-of-{node}")
        started = psutil.Process().children(recursive=True)
        assert started
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                seen = [*process.cmdline(), *process.environ().values()]
                assert f"secret-of-{name}" not in seen
    token = nodes.state_dir(name) / "token"
    assert token.read_text() == f"secret-of-{name}"
    assert token.stat().st_mode & 0o777 == 0o600


EDGE_TOML = (
    'node = "n"\nstudent = "tiny"\ngateway = "127.0.0.1:9"\nenroll = "127.0.0.1:9"\n'
    'ca = "ca.crt"\n'
    "[profile]\ncpus = 1.0\nmemory_mib = 500\nbandwidth_kib_s = 100\n"
)


@pytest.mark.parametrize("verb", ["enroll", "run"])
def test_a_token_from_the_environment_is_not_passed_on(
    tmp_path: Path, verb: str
) -> None:
    (tmp_path / "edge.toml").write_text(EDGE_TOML)
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import os\n"
            "from pathlib import Path\n"
            "from common.errors import TaktError\n"
            "from deploy.cli import edge\n"
            "try:\n"
            f"    edge.{verb}(Path('edge.toml'), token='secret')\n"
            "except TaktError as e:\n"
            "    print(e)\n"
            "print('TAKT_TOKEN' in os.environ)\n",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env={**os.environ, "TAKT_TOKEN": "secret"},
    )
    said, passed_on = done.stdout.splitlines()
    assert "project CA ca.crt is missing" in said or "ca.crt" in said
    assert passed_on == "False"


def test_a_node_enrols_with_a_token_from_standard_input(tmp_path: Path) -> None:
    with edge_site(tmp_path / "site") as site:
        config = site.node_config("typed", state_dir=tmp_path / "state")
        save_edge_config(config, tmp_path / "edge.toml")
        argv = ("-m", "deploy.cli.main", "edge", "enroll", "--token-file", "-")
        done = subprocess.run(
            [sys.executable, *argv, "--config", str(tmp_path / "edge.toml")],
            input=site.allow("typed") + "\n",
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
    assert done.returncode == 0, done.stderr
    assert "typed is enrolled until" in done.stdout


def test_without_a_token_enrolment_says_how_to_give_one(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(EDGE_TOML)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TAKT_TO")}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli.main", "edge", "enroll"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env=environment,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--token-file FILE" in line
