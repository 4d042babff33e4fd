"""TOML is written so that the same is read back, and options leave comments alone."""

import math
import tomllib
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from common.config import RunConfig
from common.config.toml_file import load_config, parse_config, set_options, to_toml
from common.errors import ConfigError
from deploy.runtime.settings import read_shipped, shipped
from edge.config import EdgeConfig

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    TEXT,
    st.dates(),
    st.times(),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=12,
)
ODD = '''
# first
"a.b" = 1 # quoted
c.d.e = "x" # dotted
c.f = [ # a list
  1, # one
  2,
]

[[g]] # list of tables
name = "one"
[[g.h]]
name = "inner"
i = { j = 1, "k l" = inf } # inline

[m.n]
o = """
two
lines"""

[[g]]
name = "two"

[p]

[m.q] # out of order
r = 1979-05-27T07:32:00Z
'''


def same(one: Any, other: Any) -> bool:
    """Compare trees; NaN is itself, 1 is not 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    both_nan = isinstance(one, float) and math.isnan(one) and math.isnan(other)
    return bool(both_nan or one == other)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_any_tree_is_read_back_as_it_was_written(tree: dict[str, Any]) -> None:
    assert same(tomllib.loads(to_toml(tree)), tree)


@pytest.mark.parametrize(
    "tree",
    [
        {"a": {"b.c": 1, "": 2, "d e": {}}},
        {"g": [{"name": "one", "h": [{"i": 0.25}, {}]}, {"name": "two"}], "z": 1},
        {"a": [[1, 2], [{"b": 1}]], "c": [{"d": 1}, 2]},
        {"a": "8/255", "b": 'x "y" \\ z', "c": "two\nlines\x7f\x00", "d": [True, 2.5]},
        {"a": math.inf, "b": -math.inf, "c": 1e300, "d": -0.0, "e": 10.0},
    ],
)
def test_odd_trees_are_read_back_as_they_were_written(tree: dict[str, Any]) -> None:
    assert same(tomllib.loads(to_toml(tree)), tree)


def test_a_path_is_written_as_text() -> None:
    assert to_toml({"data_dir": Path("/a b")}) == 'data_dir = "/a b"\n'


@pytest.mark.parametrize("name", shipped("configs"))
def test_an_option_changes_its_own_line_of_a_shipped_config(name: str) -> None:
    source, text = read_shipped(name, "configs")
    changed = set_options(text, {"teacher.epochs": 12345}, source=source)
    before, after = text.splitlines(), changed.splitlines()
    assert len(before) == len(after)
    (pair,) = [p for p in zip(before, after, strict=True) if p[0] != p[1]]
    assert pair[1].startswith("epochs = 12345")
    assert pair[0].partition("#")[2] == pair[1].partition("#")[2]


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("c.d.e", ["c", "d", "e"]),
        ("c.new", ["c", "new"]),
        ("g.two.name", ["g", 1, "name"]),
        ("g.two.deep.er", ["g", 1, "deep", "er"]),
        ("g.one.h.inner.i.j", ["g", 0, "h", 0, "i", "j"]),
        ("m.n.o", ["m", "n", "o"]),
        ("m.new", ["m", "new"]),
        ("m.q.new.er", ["m", "q", "new", "er"]),
        ("p.q", ["p", "q"]),
        ("new.er.est", ["new", "er", "est"]),
        ("g", ["g"]),
    ],
)
@pytest.mark.parametrize("value", [7, "a", [1], {"x": {"y": 1}}, [{"name": "z"}]])
def test_an_option_is_set_in_an_odd_layout_and_all_else_stays(
    key: str, path: list[Any], value: object
) -> None:
    wanted: Any = tomllib.loads(ODD)
    place = wanted
    for part in path[:-1]:
        place = place.setdefault(part, {}) if isinstance(part, str) else place[part]
    place[path[-1]] = value
    changed = set_options(ODD, {key: value}, source="odd.toml")
    assert same(tomllib.loads(changed), wanted)
    if value in (7, "a", [1]):
        for comment in ("# first", "# quoted", "# a list", "# out of order"):
            assert comment in changed


@pytest.mark.parametrize("key", ["c.d.e.x", "c.f.x"])
def test_a_key_that_leads_through_no_table_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot set {key}: .* is not a table"):
        set_options(ODD, {key: 1}, source="odd.toml")


def test_a_table_of_a_list_that_is_not_there_is_answered_with_those_that_are() -> None:
    text = read_shipped("digits", "configs")[1]
    with pytest.raises(ConfigError, match=r"'nope'; there are sensor, camera, hub$"):
        set_options(text, {"nodes.nope.profile.cpus": 1}, source="digits.toml")


def test_a_file_of_the_other_kind_is_told_from_one_with_wrong_keys() -> None:
    run = read_shipped("digits", "configs")[1]
    node = (
        'node = "n"\nstudent = "tiny"\ngateway = "127.0.0.1:9"\n'
        "[profile]\ncpus = 1.0\nmemory_mib = 500\nbandwidth_kib_s = 100\n"
    )
    parse_config(node, EdgeConfig, source="edge.toml")
    with pytest.raises(ConfigError, match=r"a node's file; .* edge run --config e\.t"):
        parse_config(node, RunConfig, source="e.t")
    with pytest.raises(ConfigError, match=r"a run's config; .* simulate --config r\.t"):
        parse_config(run, EdgeConfig, source="r.t")


def test_options_on_what_is_no_toml_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"odd\.toml is not valid TOML"):
        set_options("a = ", {"a": 1}, source="odd.toml")


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    class Small(BaseModel):
        epochs: int

    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfepochs = 3\n")
    assert load_config(path, Small).epochs == 3


def test_a_file_that_is_not_there_is_said_without_numbers_of_errors(
    tmp_path: Path,
) -> None:
    path = tmp_path / "edge.toml"
    with pytest.raises(ConfigError) as caught:
        load_config(path, EdgeConfig)
    assert str(caught.value) == (
        f"cannot read config {path}: No such file or directory; name the TOML file by "
        "--config"
    )
