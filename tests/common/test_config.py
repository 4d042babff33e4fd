"""The config: what it understands, and one line with the fix for what it does not."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from common.config import AttackConfig, DatasetConfig, RunConfig, ThreatConfig
from common.config.toml_file import load_config, parse_config
from common.errors import ConfigError
from deploy.runtime.settings import load_run_config

GOOD = """
channel = "digits"
seed = 7

[dataset]
name = "digits"
data_dir = "/some/folder"

[threat]
eps = "8/255"

[teacher]
model = "cnn_large"
epochs = 3
attack = { step_size = 0.05, steps = 7 }

[knowledge]
contents = ["soft_labels", "deltas"]
attack = { step_size = "2/255" }

[students.small]
model = "cnn_small"
epochs = 2
attack = { step_size = 0.075, steps = 2 }

[[nodes]]
name = "camera"
student = "small"
profile = { cpus = 0.5, memory_mib = 600, bandwidth_kib_s = 512 }

[evaluation]
node_attack = { step_size = 0.05 }
"""


def _refusal(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse_config(text, RunConfig, source="run.toml")
    message = str(error.value)
    assert message.startswith("run.toml")
    assert "\n" not in message
    return message


def _teacher(keys: str) -> str:
    text = GOOD.replace("[teacher]", f"[teacher]\n{keys}")
    return text.replace('name = "digits"', 'name = "digits"\nlimit = 300')


@pytest.mark.parametrize(
    ("keys", "images", "dumped"),
    [
        ("", "same", {"all_images": False}),
        ("all_images = false", "same", {"all_images": False}),
        ('images = "same"', "same", {"all_images": False}),
        ("all_images = true", "all", {"all_images": True}),
        ('images = "all"', "all", {"all_images": True}),
        ('images = "others"', "others", {"all_images": False, "images": "others"}),
    ],
)
def test_which_images_a_teacher_has_is_read_in_both_spellings_and_dumped_as_before(
    keys: str, images: str, dumped: dict[str, object]
) -> None:
    config = parse_config(_teacher(keys), RunConfig, source="run.toml")
    assert config.teacher.images == images
    tree = config.teacher.model_dump()
    assert {k: v for k, v in tree.items() if k.endswith("images")} == dumped
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again.teacher == config.teacher


@pytest.mark.parametrize("images", ["same", "others"])
def test_a_teacher_of_all_images_and_of_others_at_once_is_refused(images: str) -> None:
    line = _refusal(_teacher(f'all_images = true\nimages = "{images}"'))
    assert f"images = '{images}'" in line and "leave all_images out" in line


def test_a_whole_run_is_read() -> None:
    config = parse_config(GOOD, RunConfig, source="run.toml")
    assert config.threat.eps == 8 / 255
    assert config.knowledge.attack.step_size == 2 / 255
    assert config.dataset.data_dir == Path("/some/folder")
    assert config.nodes[0].profile.cpus == 0.5
    assert config.knowledge.contents == ("soft_labels", "deltas")
    assert config.students["small"].method == "takt"


def test_a_config_cannot_be_changed_after_it_was_read() -> None:
    config = parse_config(GOOD, RunConfig, source="run.toml")
    with pytest.raises(ValidationError):
        config.seed = 1


def test_a_whole_number_serves_where_a_fraction_is_expected() -> None:
    text = GOOD.replace("[evaluation]", "[evaluation]\nautoattack_images = 10")
    text = text.replace("cpus = 0.5", "cpus = 1")
    assert parse_config(text, RunConfig, source="x").nodes[0].profile.cpus == 1.0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs = 3", "epoch = 3", ["'teacher.epoch'", "did you mean 'epochs'?"]),
        ("epochs = 2", "epochs = 2\nx = 1", ["'students.small.x'", "known:", "model"]),
        ("[threat]", "[treat]", ["'treat'", "did you mean 'threat'?"]),
        ("cpus", "cpu", ["'nodes.0.profile.cpu'", "did you mean 'cpus'?"]),
        ("epochs = 3", 'epochs = "3"', ["teacher.epochs = '3'", "whole number"]),
        ("epochs = 3", "epochs = true", ["teacher.epochs = true", "whole number"]),
        ("epochs = 3", "epochs = 0", ["teacher.epochs = 0", "1"]),
        ("epochs = 3", "", ["'teacher.epochs' is missing"]),
        ("[threat]\n", "[threat]\nnorm = 'L2'\n", ["threat.norm = 'L2'", "Linf"]),
        ('"8/255"', "8", ["threat.eps = 8", '"8/255"', "at most 1"]),
        ('"8/255"', "0", ["threat.eps = 0", "above 0"]),
        ('"8/255"', "nan", ["threat.eps"]),
        ('"8/255"', '"8/0"', ["threat.eps = '8/0'", '"8/255"']),
        ('"8/255"', '"eight"', ["threat.eps = 'eight'", '"8/255"']),
        ("step_size = 0.05, steps = 7", "step_size = 9", ["teacher.attack.step_size"]),
        ('"digits"\ndata_dir', '"digit"\ndata_dir', ["dataset.name", "'digits'"]),
        ('name = "camera"', 'name = "../x"', ["nodes.0.name", "../x"]),
        ('student = "small"', 'student = "big"', ["'camera'", "'big'", "['small']"]),
        ("seed = 7", "seed = -1", ["seed = -1"]),
        ('["soft_labels", "deltas"]', '["weights"]', ["knowledge.contents.0"]),
        ("seed = 7", "seed = ", ["not valid TOML"]),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_was_expected(
    old: str, new: str, said: list[str]
) -> None:
    assert old in GOOD
    message = _refusal(GOOD.replace(old, new, 1))
    for part in said:
        assert part in message


def test_two_nodes_of_one_name_are_refused() -> None:
    start = GOOD.index("[[nodes]]")
    end = GOOD.index("[evaluation]")
    message = _refusal(GOOD[:end] + GOOD[start:])
    assert "two nodes are called 'camera'" in message


def test_more_nodes_than_listed_are_the_list_once_more() -> None:
    config, _ = load_run_config("digits", {"num_nodes": 5})
    assert [node.name for node in config.nodes] == [
        *("sensor", "camera", "hub", "sensor-2", "camera-2")
    ]
    assert config.nodes[3].profile == config.nodes[0].profile
    assert config.nodes[4].student == config.nodes[1].student


def test_fewer_nodes_than_listed_are_the_first_of_them() -> None:
    config, _ = load_run_config("digits", {"num_nodes": 2})
    assert [node.name for node in config.nodes] == ["sensor", "camera"]


def test_a_run_without_students_is_refused() -> None:
    start, end = GOOD.index("[students"), GOOD.index("[evaluation]")
    assert "students" in _refusal(GOOD[:start] + GOOD[end:])


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml.*name the TOML file"):
        load_config(tmp_path / "none.toml", RunConfig)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        load_config(path, RunConfig)


def test_a_config_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(GOOD)
    assert load_config(path, RunConfig).channel == "digits"


def test_models_made_in_code_are_held_to_the_same_bounds() -> None:
    with pytest.raises(ValidationError):
        ThreatConfig(eps=8)
    with pytest.raises(ValidationError):
        AttackConfig(step_size=0.1, steps=0)
    with pytest.raises(ValidationError):
        DatasetConfig(val_fraction=0.5)


def test_a_release_without_what_a_student_reads_is_refused_before_it_is_made() -> None:
    with pytest.raises(ConfigError, match="reads boundary_points, which knowledge"):
        load_run_config("digits", {"students.tiny.method": "bss"})
    with pytest.raises(ConfigError, match="reads soft_labels, which knowledge"):
        load_run_config("digits", {"knowledge.contents": ["deltas"]})


def test_a_release_may_go_without_deltas() -> None:
    config, _ = load_run_config("digits", {"knowledge.contents": ["soft_labels"]})
    assert {student.method for student in config.students.values()} == {"takt"}
