"""`takt keys`, as the people of a ceremony type it, each on a machine of their own."""

from functools import partial
from pathlib import Path

import pytest
import typer
from repository_site import Node, draft, knowledge_in, repository_in
from typed_verbs import typed
from typer.testing import CliRunner

from cloud.publishing.repository import ReleaseRepository
from common.errors import ConfigError, StorageError, TrustError
from deploy.cli import keys, pki
from deploy.runtime.passphrase import VARIABLE

SECRET = "correct horse"


takt_keys = partial(typed, keys.app)


@pytest.fixture
def repository(tmp_path: Path) -> ReleaseRepository:
    return repository_in(tmp_path / "storage")


@pytest.fixture
def node(tmp_path: Path, repository: ReleaseRepository) -> Node:
    repository.publish(draft(), knowledge_in(tmp_path))
    return Node(tmp_path / "node", repository)


@pytest.fixture
def storage(repository: ReleaseRepository) -> Path:
    return repository.root.parent


@pytest.fixture
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)


@pytest.mark.usefixtures("passphrase")
def test_a_ceremony_of_two_signers_on_machines_without_a_storage(
    tmp_path: Path, storage: Path, node: Node
) -> None:
    ada, ben = tmp_path / "ada.pem", tmp_path / "ben.pem"
    for key in (ada, ben):
        takt_keys("make", key)
    old, file = tmp_path / "old.pem", tmp_path / "root.json"
    takt_keys("offline", "root", old, "--storage", storage)
    change = ("change", "root", "--storage", storage, "--threshold", "2")
    takt_keys(*change, "--add", f"{ada}.pub", "--add", f"{ben}.pub", "--out", file)
    for key in (old, ben):
        takt_keys("sign", file, key)
    takt_keys("accept", file, "--storage", storage)
    assert node.version() == 1
    takt_keys("export", "root", file, "--storage", storage)
    assert "root: 2 of 3 keys" in takt_keys("show", file)
    assert "signed root version 3" in takt_keys("sign", file, ada)
    with pytest.raises(TrustError, match=r"root was signed by 1/2 keys; .*keys sign"):
        takt_keys("accept", file, "--storage", storage)
    takt_keys("sign", file, ben)
    assert takt_keys("accept", file, "--storage", storage) == "root 3 is in force\n"
    assert node.version() == 1
    listed = takt_keys("list", "--storage", storage)
    assert "root       2 of 3  version    3" in listed
    assert f"encrypted:{old}" in listed
    assert listed.count("elsewhere") == 2


@pytest.mark.usefixtures("passphrase")
def test_a_change_of_root_is_signed_elsewhere(
    tmp_path: Path, storage: Path, node: Node
) -> None:
    takt_keys("make", tmp_path / "new.pem")
    takt_keys("offline", "root", tmp_path / "old.pem", "--storage", storage)
    add = ("change", "root", "--storage", storage, "--add", tmp_path / "new.pem.pub")
    with pytest.raises(StorageError, match="TAKT_ROOT_SECRET"):
        takt_keys(*add)
    takt_keys(*add, "--out", tmp_path / "root.json")
    takt_keys("sign", tmp_path / "root.json", tmp_path / "old.pem")
    takt_keys("accept", tmp_path / "root.json", "--storage", storage)
    assert "root       1 of 2" in takt_keys("list", "--storage", storage)
    assert node.version() == 1


def test_show_prints_the_public_part_of_a_private_key(tmp_path: Path) -> None:
    takt_keys("make", tmp_path / "k.pem", "--no-passphrase")
    public = (tmp_path / "k.pem.pub").read_text()
    assert takt_keys("show", tmp_path / "k.pem") == public
    assert takt_keys("show", tmp_path / "k.pem.pub") == public


def test_a_passphrase_comes_from_a_file_and_is_never_in_the_key(
    tmp_path: Path,
) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    option = ("--passphrase-file", tmp_path / "secret")
    takt_keys("make", tmp_path / "k.pem", *option)
    data = (tmp_path / "k.pem").read_text()
    assert data.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert (tmp_path / "k.pem").stat().st_mode & 0o777 == 0o600
    assert takt_keys("show", tmp_path / "k.pem", *option).startswith("-----BEGIN PUB")
    (tmp_path / "secret").write_text("wrong")
    with pytest.raises(ConfigError, match=r"k\.pem holds no key .*right passphrase"):
        takt_keys("show", tmp_path / "k.pem", *option)


def test_a_file_of_a_passphrase_may_begin_with_a_byte_order_mark(
    tmp_path: Path,
) -> None:
    option = ("--passphrase-file", tmp_path / "secret")
    (tmp_path / "secret").write_text(SECRET)
    takt_keys("make", tmp_path / "k.pem", *option)
    (tmp_path / "secret").write_text(SECRET, encoding="utf-8-sig")
    assert takt_keys("show", tmp_path / "k.pem", *option).startswith("-----BEGIN PUB")


def test_no_verb_takes_a_passphrase_from_the_command_line() -> None:
    for verb in ("make", "show", "sign", "offline"):
        options = CliRunner().invoke(keys.app, [verb, "--help"]).stdout
        assert "--passphrase-file" in options
        assert "--passphrase " not in options


def test_without_a_terminal_a_missing_passphrase_is_one_line_with_the_ways(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=f"--passphrase-file, set {VARIABLE}, or run"):
        takt_keys("make", tmp_path / "k.pem")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        takt_keys("make", tmp_path / "k", "--passphrase-file", tmp_path / "empty")
    assert not list(tmp_path.glob("k*"))


@pytest.mark.parametrize("name", ["k.pem", "k.pem.pub"])
def test_no_key_is_ever_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"{name} is there already"):
        takt_keys("make", tmp_path / "k.pem", "--no-passphrase")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sign", "none.json", "k.pem"), r"cannot read none\.json: No such file"),
        (("show", "none.pem"), r"cannot read none\.pem"),
        (("accept", "junk", "--storage", "storage"), "no root or targets metadata"),
        (("sign", "junk", "k.pem"), "no root or targets metadata"),
        (("sign", "root.json", "none.pem"), r"cannot read key none\.pem"),
        (("sign", "root.json", "junk"), "junk holds no key that can be used"),
        (("show", "junk"), "key that can be used; expected PEM"),
        (("make", "k", "--passphrase-file", "none"), "passphrase none: No such file"),
        (("sign", "root.json", "hsm:2"), "give its public key with --public"),
        (("change", "root", "--storage", "storage"), "nothing to change"),
        (("change", "root", "--storage", "storage", "--add", "junk"), "holds no key"),
        (("export", "timestamp", "f", "--storage", "storage"), "expected one of root"),
        (("offline", "root", "storage/k", "--storage", "storage"), "in the storage"),
    ],
)
def test_each_mistake_is_one_line(
    tmp_path: Path,
    storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("junk").write_text("junk")
    takt_keys("export", "root", "root.json", "--storage", storage)
    with pytest.raises(ConfigError, match=message) as caught:
        takt_keys(*arguments)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_release_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    with pytest.raises(StorageError, match="has no release yet"):
        takt_keys("list", "--storage", tmp_path / "empty")


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (pki.app, ("rotate", "autority")),
        (keys.app, ("export", "foo", "file")),
        (keys.app, ("offline", "foo", "file")),
        (keys.app, ("change", "foo", "--threshold", "1")),
    ],
)
def test_a_role_is_checked_before_the_folder_is_looked_for(
    tmp_path: Path, app: typer.Typer, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"role '\w+': expected one of root, targets"):
        typed(app, *arguments, "--storage", tmp_path / "none")


def test_a_file_that_is_no_request_is_refused_in_words_of_takt(tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    typed(pki.app, "init", "--storage", tmp_path / "storage")
    with pytest.raises(ConfigError, match="is not a PEM signing request; make it with"):
        typed(
            pki.app, "sign", "n", tmp_path / "junk", "--storage", tmp_path / "storage"
        )
