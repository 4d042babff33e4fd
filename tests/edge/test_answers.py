"""The teacher's answers about a node's own images: asked for once, and kept."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from chaos_proxy import ChaosProxy
from edge_site import EdgeSite, edge_site
from numpy.typing import NDArray
from waiting import WAIT_S

from cloud.gateway.live_teacher import Batch, LiveTeacher, Shapes
from common.errors import ConfigError, Interrupted, LinkError, StorageError
from common.pb import takt_pb2_grpc
from edge.config import EdgeConfig
from edge.distill.teacher.answers import Answers, AnswersFile, teacher_answers
from edge.jobs.job import LiveLink
from edge.link.teacher_stream import ReleasedTeacher
from edge.state import StateDir

TEACHER, OTHER = (ReleasedTeacher(32 * each, 10) for each in ("ab", "cd"))
WEIGHTS = np.random.default_rng(9).standard_normal((64, 10)).astype(np.float32)


@dataclass
class Cloud:
    """A gateway with a teacher that counts the images it is asked about."""

    site: EdgeSite
    node: EdgeConfig
    asked: list[int] = field(default_factory=list)
    on_part: Callable[[int], None] = lambda number: None
    answer: Callable[[Batch], Batch] = lambda x: teacher(x)

    def link(self, **changes: Any) -> LiveLink:
        values = {
            "gateway": self.node.gateway,
            "identity_dir": StateDir(self.node.state_dir).identity,
            "profile": None,
            "deadline_s": WAIT_S,
            "stall_s": 5.0,
        }
        return LiveLink(**{**values, **changes})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    clouds: list[Cloud] = []

    async def shapes() -> Shapes:
        return Shapes((1, 8, 8), 10, TEACHER.sha256)

    async def query(x: Batch) -> Batch:
        (cloud,) = clouds
        cloud.asked.append(len(x))
        cloud.on_part(len(cloud.asked))
        return cloud.answer(x)

    live = LiveTeacher(shapes, query, pull_back=lambda x, cotangent: query(x))
    with edge_site(tmp_path_factory.mktemp("site"), live) as site:
        clouds.append(Cloud(site, site.join("sensor")))
        yield clouds[0]


@pytest.fixture
def cloud(running: Cloud) -> Cloud:
    running.asked.clear()
    running.on_part = lambda number: None
    running.answer = teacher
    return running


def teacher(x: Batch) -> Batch:
    logits: Batch = x.reshape(len(x), -1) @ WEIGHTS
    return logits


def images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    shape = (count, 1, 8, 8)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def expected(x: NDArray[np.uint8]) -> NDArray[np.float32]:
    logits = teacher(np.divide(x, 255, dtype=np.float32))
    return logits.astype(np.float16).astype(np.float32)


def from_file(
    path: Path, x: NDArray[np.uint8], which: ReleasedTeacher = TEACHER
) -> Answers:
    """Ask a teacher of this process."""
    with AnswersFile(path) as file:
        return file.answers_for([x], which, lambda part: expected(part))


def test_answers_are_the_teachers_logits_in_the_order_of_the_views(
    cloud: Cloud, tmp_path: Path
) -> None:
    views = [images(300, 1), images(20, 2)]
    found = teacher_answers(cloud.link(), tmp_path / "a.sqlite", TEACHER, views)
    whole = expected(np.concatenate(views))
    # The gateway's product of another batch size differs in the last bit.
    np.testing.assert_allclose(found.logits, whole, rtol=2e-3, atol=1e-3)
    assert (found.num_asked, sum(cloud.asked)) == (320, 320)


def test_an_image_crosses_once_as_a_byte_a_pixel(cloud: Cloud, tmp_path: Path) -> None:
    path, x = tmp_path / "a.sqlite", images(200)
    first = teacher_answers(cloud.link(), path, TEACHER, [x])
    again = teacher_answers(cloud.link(), path, TEACHER, [x[::-1], x])
    assert 200 * (64 + 40) < first.num_bytes < 200 * (64 + 40) + 256
    assert (again.num_asked, again.num_bytes, sum(cloud.asked)) == (0, 0, 200)
    assert np.array_equal(again.logits[200:], first.logits)
    assert np.array_equal(again.logits[:200], first.logits[::-1])


def test_with_all_answers_at_hand_the_gateway_may_be_away(
    cloud: Cloud, tmp_path: Path
) -> None:
    path, x = tmp_path / "a.sqlite", images(5)
    teacher_answers(cloud.link(), path, TEACHER, [x])
    nowhere = cloud.link(gateway="127.0.0.1:1", deadline_s=0.1)
    assert len(teacher_answers(nowhere, path, TEACHER, [x]).logits) == 5


def test_equal_images_are_asked_about_once(tmp_path: Path) -> None:
    x = images(4)[[0, 1, 0, 2, 2, 3]]
    found = from_file(tmp_path / "a.sqlite", x)
    assert found.num_asked == 4
    assert np.array_equal(found.logits, expected(x))


def test_a_query_that_is_cut_half_way_goes_on_where_it_was(
    cloud: Cloud, tmp_path: Path
) -> None:
    path, x = tmp_path / "a.sqlite", images(700)
    with ChaosProxy(cloud.node.gateway) as proxy:

        def break_off(number: int) -> None:
            if number == 3:
                proxy.refuse = True
                proxy.cut_all()

        cloud.on_part = break_off
        through = cloud.link(gateway=proxy.address, deadline_s=1.0)
        with pytest.raises(LinkError, match="asking the live teacher"):
            teacher_answers(through, path, TEACHER, [x])
    cloud.asked.clear()
    found = teacher_answers(cloud.link(), path, TEACHER, [x])
    assert (found.num_asked, cloud.asked) == (700 - 2 * 256, [700 - 2 * 256])
    np.testing.assert_allclose(found.logits, expected(x), rtol=2e-3, atol=1e-3)


def test_a_stop_keeps_what_was_answered(cloud: Cloud, tmp_path: Path) -> None:
    path, x = tmp_path / "a.sqlite", images(600)
    with pytest.raises(Interrupted):
        teacher_answers(cloud.link(), path, TEACHER, [x], lambda: len(cloud.asked) == 2)
    found = teacher_answers(cloud.link(), path, TEACHER, [x])
    assert 0 < found.num_asked < 600


def test_answers_of_another_teacher_do_not_count(tmp_path: Path) -> None:
    path, x = tmp_path / "a.sqlite", images(10)
    from_file(path, x)
    assert from_file(path, x, OTHER).num_asked == 10
    assert from_file(path, x).num_asked == 0


@pytest.mark.parametrize("damage", ["text", "pages", "tables"])
def test_a_damaged_file_is_set_aside_with_a_note(damage: str, tmp_path: Path) -> None:
    path, x = tmp_path / "a.sqlite", images(300)
    if damage == "text":
        path.write_text("no database, but long enough to be read as one" * 99)
    elif damage == "tables":
        sqlite3.connect(path).execute("CREATE TABLE other (a)").connection.close()
    else:
        from_file(path, x)
        data = bytearray(path.read_bytes())
        data[4096:-4096] = bytes(len(data) - 8192)
        path.write_bytes(data)
    found = from_file(path, x)
    assert (found.num_asked, len(found.notes)) == (300, 1)
    assert "damaged" in found.notes[0] and "a.sqlite.damaged" in found.notes[0]
    assert np.array_equal(found.logits, expected(x))
    again = from_file(path, x)
    assert (again.num_asked, again.notes) == (0, ())


def test_the_oldest_teachers_answers_are_the_first_to_go(tmp_path: Path) -> None:
    path, x = tmp_path / "a.sqlite", images(30)
    for which in (TEACHER, OTHER):
        from_file(path, x, which)
    with AnswersFile(path, max_others=39) as file:
        file.answers_for([x[:1]], OTHER, expected)
    assert from_file(path, x, OTHER).num_asked == 0
    assert from_file(path, x, TEACHER).num_asked == 20


def ask_again(path: Path, x: NDArray[np.uint8], *, max_others: int) -> int:
    with AnswersFile(path, max_others=max_others) as file:
        return file.answers_for([x], TEACHER, expected).num_asked


def test_answers_in_use_are_all_kept_however_many_they_are(tmp_path: Path) -> None:
    path, x = tmp_path / "a.sqlite", images(700)
    assert ask_again(path, x, max_others=0) == 700
    assert ask_again(path, x, max_others=0) == 0


def test_answers_about_images_that_are_gone_go_before_older_ones_in_use(
    tmp_path: Path,
) -> None:
    path, x = tmp_path / "a.sqlite", images(30)
    ask_again(path, x, max_others=0)
    assert ask_again(path, x[:10], max_others=5) == 0
    assert ask_again(path, x[:10], max_others=5) == 0
    assert ask_again(path, x, max_others=5) == 15


def test_answers_are_held_as_they_were_kept(tmp_path: Path) -> None:
    found = from_file(tmp_path / "a.sqlite", images(300))
    assert found.logits.dtype == np.float16


def test_a_file_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as e:
        from_file(tmp_path / "absent" / "a.sqlite", images(1))
    assert "cannot use" in str(e.value) and "\n" not in str(e.value)


def test_no_images_have_no_answers(tmp_path: Path) -> None:
    assert from_file(tmp_path / "a.sqlite", images(0)).logits.shape == (0, 10)


def test_another_teacher_than_the_releases_is_refused_and_nothing_kept(
    cloud: Cloud, tmp_path: Path
) -> None:
    path, x = tmp_path / "a.sqlite", images(3)
    with pytest.raises(ConfigError) as e:
        teacher_answers(cloud.link(), path, OTHER, [x])
    assert f"is {TEACHER.sha256[:12]}, the release's is {OTHER.sha256[:12]}" in str(
        e.value
    )
    assert from_file(path, x, OTHER).num_asked == 3


UNFIT: dict[str, Callable[[Batch], Batch]] = {
    "nan": lambda x: np.full((len(x), 10), np.nan, np.float32),
    "one_infinite": lambda x: np.where(np.eye(len(x), 10) == 1, np.inf, teacher(x)),
    "three_classes": lambda x: teacher(x)[:, :3],
    "eleven_classes": lambda x: np.pad(teacher(x), ((0, 0), (0, 1))),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_an_answer_that_is_no_answer_is_refused_and_asked_for_anew(
    kind: str, cloud: Cloud, tmp_path: Path
) -> None:
    path, x = tmp_path / "a.sqlite", images(3)
    cloud.answer = lambda given: np.asarray(UNFIT[kind](given), np.float32)
    with pytest.raises(LinkError, match="teacher") as e:
        teacher_answers(cloud.link(), path, TEACHER, [x])
    assert cloud.node.gateway in str(e.value) and "\n" not in str(e.value)
    assert from_file(path, x).num_asked == 3


@pytest.mark.parametrize("kept", [[1.0] * 3, [1.0] * 11, [np.nan] * 10, [np.inf] * 10])
def test_a_kept_row_that_is_no_answer_is_asked_for_anew(
    kept: list[float], tmp_path: Path
) -> None:
    path, x = tmp_path / "a.sqlite", images(4)
    from_file(path, x)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        row = np.array(kept, "<f2").tobytes()
        database.execute("UPDATE answers SET logits = ? WHERE rowid = 2", (row,))
    found = from_file(path, x)
    assert found.num_asked == 1
    assert np.array_equal(found.logits, expected(x))
    assert from_file(path, x).num_asked == 0


def test_a_kept_row_of_half_a_number_is_asked_for_anew(tmp_path: Path) -> None:
    path, x = tmp_path / "a.sqlite", images(4)
    from_file(path, x)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE answers SET logits = ? WHERE rowid = 2", (b"abc",))
    assert from_file(path, x).num_asked == 1


def test_a_gateway_without_a_teacher_is_said_with_both_ways_out(
    tmp_path: Path,
) -> None:
    with edge_site(tmp_path) as site:
        alone = Cloud(site, site.join("sensor"))
        with pytest.raises(ConfigError, match="share_images needs") as e:
            teacher_answers(alone.link(), tmp_path / "a", TEACHER, [images(3)])
    assert "live_teacher = true" in str(e.value)
    assert "share_images = false" in str(e.value)


def test_images_of_another_size_are_refused_for_good(
    cloud: Cloud, tmp_path: Path
) -> None:
    x = np.zeros((2, 3, 9, 9), np.uint8)
    with pytest.raises(ConfigError, match=r"expected \(1 to 1024, 1, 8, 8\)"):
        teacher_answers(cloud.link(), tmp_path / "a.sqlite", TEACHER, [x])


class OlderServicer(takt_pb2_grpc.TeacherServiceServicer):
    """A gateway from before there was QueryRequest.pixels."""

    def Query(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        for request in request_iterator:
            expected = 4 * int(np.prod(request.shape))
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"batch has {len(request.x)} bytes, expected {expected}",
            )
            yield None


def test_an_older_gateway_is_answered_in_one_line(cloud: Cloud, tmp_path: Path) -> None:
    assert cloud.site.gateway is not None
    authority = cloud.site.gateway.running.authority
    server = grpc.server(ThreadPoolExecutor(2))
    takt_pb2_grpc.add_TeacherServiceServicer_to_server(OlderServicer(), server)
    own = authority.server_credentials()
    credentials = grpc.ssl_server_credentials([(own.key, own.certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    older = cloud.link(gateway=f"127.0.0.1:{port}")
    try:
        with pytest.raises(ConfigError) as e:
            teacher_answers(older, tmp_path / "a.sqlite", TEACHER, [images(3)])
    finally:
        server.stop(None).wait()
    assert str(e.value).startswith(f"gateway 127.0.0.1:{port} is too old for share")
    assert "update takt there" in str(e.value)
