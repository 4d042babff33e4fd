"""`takt config`: where each value comes from, and every key explained."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import WAIT_S

from common.config import RunConfig
from common.errors import ConfigError
from deploy.runtime.config_keys import effective, explain_key
from deploy.runtime.settings import (
    load_run_config,
    parse_assignments,
    refuse_unread_views,
    shipped,
)


def shown(*arguments: str | Path) -> dict[str, tuple[object, str]]:
    command = [sys.executable, "-m", "deploy.cli.main", "config", "show", "--json"]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stderr
    return {row["key"]: (row["value"], row["from"]) for row in json.loads(done.stdout)}


def test_each_value_is_shown_with_the_file_the_option_or_the_default_it_is_of() -> None:
    found = shown(
        *("--seed", "4", "--set", "nodes.hub.profile.cpus=0.3"),
        *("--set", "num_nodes=4"),
    )
    assert found["seed"] == (4, "--seed 4")
    assert found["nodes.hub.profile.cpus"] == (0.3, "--set")
    assert found["dataset.limit"] == (800, "the file")
    assert found["knowledge.num_val_images"] == (100, "the file")
    assert found["teacher.momentum"] == (0.9, "default")
    assert found["nodes.sensor-2.student"] == ("tiny", "the file")


def test_an_option_that_says_what_the_file_says_is_still_shown_as_the_option() -> None:
    settings, _ = load_run_config("digits", {"seed": 0})
    found = {key: origin for key, _, origin in effective(settings, {}, {"seed": "-x"})}
    assert found["seed"] == "-x"


def _keys() -> Iterator[str]:
    settings, _ = load_run_config("digits")
    for key, _, _ in effective(settings, {}, {}):
        yield key


def test_every_key_that_is_shown_is_explained_with_value_and_default() -> None:
    keys = list(_keys())
    assert len(keys) > 100
    for key in keys:
        lines = explain_key(key)
        assert lines[0].startswith(key) and lines[1].startswith("value: ")
        assert lines[2].startswith("default: ") and "`" not in "".join(lines)


def test_a_key_is_explained_by_its_note_bounds_and_default() -> None:
    assert explain_key("gateway.node_days") == [
        "gateway.node_days: life of a node's certificate; the node renews it in the "
        "last third",
        "value: number > 0",
        "default: 30",
    ]


def test_the_name_of_a_node_may_be_left_out_of_its_key() -> None:
    with_name, without = (
        explain_key(f"nodes{name}.profile.cpus")[1:] for name in (".hub", "")
    )
    assert with_name == without == ["value: number > 0", "default: -, it is required"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            "teacher.epoch",
            "unknown key 'teacher.epoch'; did you mean 'teacher.epochs'?",
        ),
        ("seed.x", "unknown key 'seed.x': no 'x'; nothing is below that key"),
        ("", "no ''; known there: channel, seed"),
        ("edge.poll_s", "unknown key 'edge.poll_s': no 'edge'; known there: channel"),
        ("nodes.hub.zzz", "no 'zzz'; known there: name, student"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_or_all(
    key: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        explain_key(key)
    assert said in str(caught.value)


def test_the_top_level_keys_are_all_explained() -> None:
    for key in RunConfig.model_fields:
        assert explain_key(key)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 3000])
def test_a_value_beyond_what_python_reads_is_a_wrong_config_and_no_bug(
    tmp_path: Path, value: str
) -> None:
    file = tmp_path / "big.toml"
    file.write_text(f"seed = {value}")
    with pytest.raises(ConfigError, match=r"thousands of digits"):
        load_run_config(str(file))
    with pytest.raises(ConfigError, match=r"^--set seed=.*expected a whole number"):
        load_run_config("digits", parse_assignments([f"seed={value}"]))


def with_views(**changes: object) -> RunConfig:
    nine = {"knowledge.num_views": 9, "students.tiny.num_views": 9}
    settings, _ = load_run_config("digits", {**nine, "knowledge.shift": 1})
    tiny = settings.students["tiny"].model_copy(update=changes)
    return settings.model_copy(update={"students": {"tiny": tiny}})


def test_own_views_and_a_method_without_soft_labels_read_no_view_of_the_release() -> (
    None
):
    refuse_unread_views(with_views())
    with pytest.raises(ConfigError, match=r"of more than 3 .*tiny.num_views = 3"):
        refuse_unread_views(with_views(num_views=3, own_views=9))
    with pytest.raises(ConfigError, match=r"of more than 1 .none reads any"):
        refuse_unread_views(with_views(method="warm_at"))


@pytest.mark.parametrize("name", shipped("configs"))
def test_each_shipped_config_labels_the_views_that_its_students_read(
    name: str,
) -> None:
    refuse_unread_views(load_run_config(name)[0])


@pytest.mark.parametrize("value", ["1" + "0" * 24, "-" + "9" * 400])
def test_an_integer_beyond_64_bits_is_refused_in_every_key(
    tmp_path: Path, value: str
) -> None:
    file = tmp_path / "big.toml"
    file.write_text(f"[teacher]\nepochs = {value}")
    with pytest.raises(ConfigError, match=r"'teacher.epochs' is a number of \d+ digi"):
        load_run_config(str(file))
    with pytest.raises(ConfigError, match=r"^--set teacher.epochs=.*expected a number"):
        load_run_config("digits", parse_assignments([f"teacher.epochs={value}"]))
