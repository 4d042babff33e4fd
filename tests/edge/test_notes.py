"""What a distillation says of a node's own images reaches the user."""

import json
import logging
from collections.abc import Iterator

import pytest
from edge_site import EdgeSite, edge_site
from prepared_work import prepare
from typer.testing import CliRunner

from deploy.cli.edge import app
from edge.config import EdgeConfig, save_edge_config
from edge.daemon import NodeDaemon
from edge.state import StateDir, read_status

NOTES = ("1 of 9 images is left out: a\x1b.png", "2 are made grey")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    with edge_site(tmp_path_factory.mktemp("site")) as site:
        site.publish_noise(num_samples=500)
        yield site


@pytest.fixture
def node(site: EdgeSite, request: pytest.FixtureRequest) -> EdgeConfig:
    """Join a node whose distillation is taken as done, with two notes."""
    node = site.join(request.node.name.replace("_", "-")[5:60])
    prepare(site, node, robust_accuracy=0.5, notes=NOTES, release_robust=0.25)
    return node


def says(node: EdgeConfig, verb: str, *options: str) -> list[str]:
    path = node.state_dir / "edge.toml"
    save_edge_config(node, path)
    done = CliRunner().invoke(app, [verb, "--config", str(path), *options])
    assert done.exception is None, done.output
    return done.stdout.splitlines()


def test_notes_are_logged_when_a_distillation_ends(
    node: EdgeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    NodeDaemon(node).once()
    said = [(r.levelname, r.message) for r in caplog.records if r.message in NOTES]
    assert said == [("WARNING", note) for note in NOTES]


def test_notes_stay_with_the_state_until_the_next_distillation(
    site: EdgeSite, node: EdgeConfig
) -> None:
    NodeDaemon(node).once()
    assert StateDir(node.state_dir).read_current().notes == NOTES
    NodeDaemon(node).once()  # a restart, with nothing to do
    assert read_status(node.state_dir).notes == NOTES


def test_takt_edge_once_ends_with_the_notes(node: EdgeConfig) -> None:
    level = logging.getLogger().level
    try:
        assert says(node, "once")[-2:] == [
            r"note: 1 of 9 images is left out: a\x1b.png",
            "note: 2 are made grey",
        ]
    finally:  # the verb has set up the log of its process
        logging.basicConfig(level=level, force=True, handlers=[])


def test_takt_edge_status_has_the_notes_and_the_releases_figure(
    node: EdgeConfig,
) -> None:
    NodeDaemon(node).once()
    lines = says(node, "status")
    assert r"note: 1 of 9 images is left out: a\x1b.png" in lines
    tree = json.loads("\n".join(says(node, "status", "--json")))
    assert tree["notes"] == [*NOTES]
    figures = (tree["robust_accuracy"], tree["release_robust_accuracy"])
    assert figures == (0.5, 0.25)
