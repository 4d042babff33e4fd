"""Starting weights: a student of each recipe, distilled in the cloud and shipped.

A node that begins with them needs no training to have a student, and where it has
images of its own it goes on from there. They are made as a node makes a student: the
recipe as it is, by `fit_student` of edge.distill.fitting, but of all the cloud's
training images, with the teacher's knowledge of each. A Ray task a recipe.

Here because it joins both sides, which know nothing of each other. Not here: where the
weights are signed (cloud.publishing), what a node does with them (edge.distill). Torch
and Ray are imported where they are used.
"""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cloud.storage import StorageDir
from common.config import RunConfig
from common.durable import storing, write_atomic
from common.errors import ConfigError, StorageError
from common.models.card import ModelCard
from common.records import Record
from common.release import WeightsInfo, student_card

if TYPE_CHECKING:
    import torch
    from torch import nn

    from common.data.datasets import Dataset
    from edge.jobs.job import EpochPoint


class StartingStudent(Record):
    """The record beside a student's weights."""

    decided_by: str  # digest of all that decides them
    info: WeightsInfo | None  # None: collapsed or beyond fp16, and not shipped


def make_starting_weights(
    config: RunConfig,
    storage: StorageDir,
    update: Callable[[str], None] = lambda line: None,
) -> None:
    """Distil a student of each recipe, unless it is there.

    Args:
        config: of the run.
        storage: with the teacher and its knowledge; its folder starting/ takes the
            weights.
        update: called with a line for each student that was distilled.

    Raises:
        ClusterError: the tasks failed for good, or no cluster is connected.
        TaktError: as `cloud.extraction.job.extract_knowledge` and `fit_student`.
    """
    from cloud.cluster.driver import with_absolute_paths
    from cloud.cluster.tasks import run_tasks
    from common.data.datasets import load_dataset

    storage = storage.resolve()
    storage.create(storage.starting)
    split = load_dataset(config.dataset, seed=config.seed).train.fingerprint()
    missing = [
        student
        for student in config.students
        if _kept(config, storage, student, split) is None
    ]
    if not missing:
        return
    _extract_all(config, storage)
    run = with_absolute_paths(config).model_dump_json()
    results = run_tasks(
        distil_task,
        [(run, str(storage.root), student, len(missing)) for student in missing],
        what="distilling starting weights",
        use_gpu=config.teacher.use_gpu,
    )
    for student, text in zip(missing, results, strict=True):
        update(_line(student, StartingStudent.model_validate_json(text)))


def starting_weights(
    config: RunConfig, storage: StorageDir, fingerprint: str
) -> dict[str, WeightsInfo]:
    """Return what there is to ship, by student; the files lie in starting/.

    Args:
        config: of the run; without `knowledge.weights` there is nothing.
        storage: the cloud side's folder.
        fingerprint: of the training split that the config gives now.

    Raises:
        ConfigError: a student was made with other options, or of another teacher.
        StorageError: one is missing or damaged.
    """
    if not config.knowledge.weights:
        return {}
    found: dict[str, WeightsInfo] = {}
    for student in config.students:
        path = _record(storage, student)
        if not path.exists():
            raise StorageError(
                f"there is no {path}: the starting weights of student '{student}'; "
                "make them with `takt cloud extract` first"
            )
        kept = _kept(config, storage, student, fingerprint)
        if kept is None:
            raise ConfigError(
                f"the starting weights of student '{student}' in {storage.starting} "
                "are damaged, or were made with other options or of another teacher; "
                "give each step the same, or make them with `takt cloud extract` again"
            )
        if kept.info is not None:
            found[student] = kept.info
    return found


def distil_task(run: str, root: str, student: str, num_tasks: int) -> str:
    """Do one Ray task: all arguments and the result are plain texts and numbers.

    Args:
        run: the run's config, JSON.
        root: of the storage folder.
        student: name of the recipe.
        num_tasks: how many there may be on this machine, this one included.

    Returns:
        Its `StartingStudent`, JSON.
    """
    import torch

    from cloud.cluster.cores import cores_of_worker

    torch.set_num_threads(cores_of_worker(num_tasks))
    config = RunConfig.model_validate_json(run)
    use_gpu = config.teacher.use_gpu and torch.cuda.is_available()
    device = torch.device("cuda" if use_gpu else "cpu")
    made = distil_student(config, StorageDir(Path(root)), student, device=device)
    return made.model_dump_json()


def distil_student(
    config: RunConfig,
    storage: StorageDir,
    student: str,
    *,
    device: "torch.device | None" = None,
) -> StartingStudent:
    """Distil, measure and write one recipe's weights, its record last.

    Args:
        config: of the run.
        storage: with the teacher, and its knowledge of all training images.
        student: name of the recipe.
        device: to train on; None: the CPU.

    Raises:
        TrustError: the knowledge is damaged.
        StorageError: the teacher is missing, or the disk is full.
    """
    from dataclasses import replace

    from cloud.publishing.publish import draft_manifest, read_index, read_teacher
    from common.catalog import needs_live_teacher
    from common.data.datasets import load_dataset
    from common.models.files import load_model
    from edge.distill.batch import Images
    from edge.distill.fitting.fit import fit_student
    from edge.distill.knowledge import read_knowledge
    from edge.distill.task import CPU, Task

    recipe, source = config.students[student], _source(config, storage)
    dataset = load_dataset(config.dataset, seed=config.seed)
    manifest = draft_manifest(
        _of_all_images(config),
        dataset,
        teacher=read_teacher(storage.card),
        shards=read_index(source.knowledge_index),
    )
    if recipe.method == "absld" or device is None:
        device = CPU  # see edge.distill.task
    task = Task.of_release(
        manifest,
        train=Images.of(dataset.train),
        val=Images.of(dataset.val),
        knowledge=read_knowledge(manifest, source.knowledge, recipe),
        seed=config.seed,
    )
    task = replace(task, device=device)
    if needs_live_teacher(recipe.method):
        teacher, _ = load_model(storage.weights)
        task = replace(task, teacher=teacher.to(device))
    progress = storage.starting_progress(student)

    def note(point: "EpochPoint") -> None:
        line = {"epoch": point.epoch, "epochs": point.epochs}
        with storing(progress):
            progress.write_text(json.dumps(line) + "\n")

    model = fit_student(recipe, task, on_epoch=note).model.cpu()
    card = student_card(manifest, recipe, seed=config.seed)
    card = card.model_copy(update={"version": 0})  # not known before it is published
    path = storage.starting / f"weights-{student}.safetensors"
    info = _measured_and_saved(config, dataset, model, path, card)
    made = StartingStudent(
        decided_by=_digest(config, storage, student, dataset.train.fingerprint()),
        info=info,
    )
    write_atomic(_record(storage, student), made.model_dump_json(indent=1).encode())
    return made


def _measured_and_saved(
    config: RunConfig,
    dataset: "Dataset",
    model: "nn.Module",
    path: Path,
    card: ModelCard,
) -> WeightsInfo | None:
    """Write the student in fp16, measured as it is then; None: not shipped."""
    import torch

    from cloud.publishing.transfer_set import released_validation
    from common.models.files import save_model
    from common.models.zoo import num_parameters
    from common.robustness.evaluate import is_collapsed, predict, robust_accuracy_pgd

    half = copy.deepcopy(model).half()
    shipped = copy.deepcopy(half).float().eval()
    finite = all(torch.isfinite(value).all() for value in shipped.state_dict().values())
    x, y = released_validation(config, dataset).tensors()
    classes = predict(shipped, x)
    if not finite or is_collapsed(classes, dataset.num_classes, labels=y):
        return None
    robust = robust_accuracy_pgd(
        shipped,
        x,
        y,
        attack=config.evaluation.node_attack,
        eps=config.threat.eps,
        seed=config.seed,
    )
    sha256 = save_model(path, half, card)
    return WeightsInfo(
        path=path.name,
        num_bytes=path.stat().st_size,
        sha256=sha256,
        architecture=card.architecture,
        num_parameters=num_parameters(model),
        clean_accuracy=float((classes == y).double().mean()),
        robust=robust,
    )


def _extract_all(config: RunConfig, storage: StorageDir) -> None:
    """Extract the knowledge of all training images, where a release has fewer."""
    from cloud.extraction.job import extract_knowledge

    source = _source(config, storage)
    if source.root != storage.root:
        source.create()
        write_atomic(source.weights, storage.weights.read_bytes())
        extract_knowledge(_of_all_images(config), source)


def _source(config: RunConfig, storage: StorageDir) -> StorageDir:
    """Return the storage folder whose knowledge is of all training images."""
    is_here = config.knowledge.images == "same"
    return storage if is_here else StorageDir(storage.starting)


def _of_all_images(config: RunConfig) -> RunConfig:
    """Make the config of a release that covers all the cloud's training images."""
    knowledge = config.knowledge.model_copy(update={"images": "same"})
    return config.model_copy(update={"knowledge": knowledge})


def _kept(
    config: RunConfig, storage: StorageDir, student: str, fingerprint: str
) -> StartingStudent | None:
    """Read a student that was made as the config says; None: there is none."""
    try:
        made = StartingStudent.model_validate_json(
            _record(storage, student).read_bytes()
        )
        wanted = _digest(config, storage, student, fingerprint)
        if made.decided_by != wanted:
            return None
        if made.info is not None:
            data = (storage.starting / made.info.path).read_bytes()
            if hashlib.sha256(data).hexdigest() != made.info.sha256:
                return None
    except (OSError, ValidationError):
        return None
    return made


def _digest(
    config: RunConfig, storage: StorageDir, student: str, fingerprint: str
) -> str:
    """Digest all that decides a student: teacher, images, knowledge and recipe."""
    from cloud.extraction.recipe import recipe_of
    from cloud.publishing.publish import read_teacher

    choice = read_teacher(storage.card).choice
    decides = [
        recipe_of(config, storage, fingerprint),
        choice.temperature if choice else config.knowledge.temperature,
        # How nodes go on from the weights does not change them.
        config.students[student].model_dump(
            mode="json", exclude={"tuning", "own_views"}
        ),
        config.evaluation.node_attack.model_dump(mode="json"),
    ]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _record(storage: StorageDir, student: str) -> Path:
    return storage.starting / f"{student}.json"


def _line(student: str, made: StartingStudent) -> str:
    """Say in a line what came of a recipe."""
    from deploy.report.wording import describe, percent

    if made.info is None:
        return (
            f"starting weights of {student}: none, it predicts one class for all, or "
            "its weights are beyond half precision; nodes begin without"
        )
    return (
        f"starting weights of {student}: clean {percent(made.info.clean_accuracy)} %, "
        f"{percent(made.info.robust.accuracy)} % ({describe(made.info.robust)}), "
        f"{made.info.num_bytes:,} bytes"
    )
