"""One training of a student under way: its steps, epochs and milestones.

All schedules follow the share of the work that is done, of so many epochs or of
so many CPU-seconds. At sixteen milestones the student is measured on validation
images. One that has collapsed to one class is started again once, at a third of the
learning rate; one that overfits to the attack it is trained with goes on with more
steps of it. Not here: the objectives (edge.distill.methods), checkpoints on disk and
the end (fit.py).
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from common.config import StudentConfig, TuningConfig
from common.data.views import show
from common.errors import DataError, Interrupted
from common.models.contract import check_contract
from common.models.forward import seeded
from common.models.zoo import build_model
from common.optim import schedule, warmed_up
from common.robustness.attacks import pgd
from common.robustness.evaluate import is_collapsed, predict
from edge.distill.batch import Batch, Images, Setting
from edge.distill.class_temperatures import ClassTemperatures
from edge.distill.fitting.checkpoint import FitState
from edge.distill.fitting.delta_memory import DeltaMemory, ValueMemory
from edge.distill.fitting.learner import Learner, under
from edge.distill.fitting.overfitting import MAX_STEPS, Attacked, is_overfitted
from edge.distill.knowledge import Knowledge
from edge.distill.methods.jacobian import jacobian_penalty
from edge.distill.methods.losses import Method, method
from edge.distill.methods.targets import find_target
from edge.distill.sources.sampler import Sampler
from edge.distill.task import Task
from edge.jobs.job import EpochPoint

MILESTONES = 16
_VAL_IMAGES = 128  # measured at a milestone
_VAL_STEPS = 5  # of PGD there; all of this stays near a tenth of the training
_COLLAPSE_FROM = 0.3  # of the training: earlier, one class for all is no collapse
_MIN_EPS = 0.01  # of eps, while it warms up


class Training:
    """One training under way."""

    def __init__(
        self,
        recipe: StudentConfig,
        task: Task,
        *,
        clock: Callable[[], float] = time.process_time,
        state: FitState | None = None,
    ) -> None:
        """Begin the attempt of a state; None: the first.

        Args:
            recipe: model, method, attack and schedules.
            task: data, threat model, seed and limits.
            clock: CPU-seconds of this process.
            state: of a checkpoint, whose tensors `resume` takes.
        """
        self.recipe = recipe if task.start is None else tuned(recipe)
        self.task = task
        self.clock = clock
        self.train = task.train.to(task.device)
        self.val = Images(task.val.x[:_VAL_IMAGES], task.val.y[:_VAL_IMAGES])
        self.method = method(recipe.method)
        self.knowledge = relabelled(task, self.method).to(task.device)
        self.rows = trained_rows(self.method, task)
        self.batch_size = min(task.batch_size or recipe.batch_size, len(self.rows))
        # Whether some images have another target than soft labels and a true label.
        self.finds_targets = self.method.finds_targets and (
            task.knowledge.taught is not None or bool((task.train.y < 0).any())
        )
        self.schedule = schedule(recipe.schedule)
        self.state = state or FitState()
        check_contract(recipe.model, **self._built_for())
        self.begin()

    def begin(self) -> None:
        """Start the state's attempt with fresh weights, or those of the task."""
        device = self.task.device
        seed = self.task.seed + 1_000_003 * self.state.attempt
        self.generator = torch.Generator().manual_seed(seed)
        self.noise = self.generator  # of the attacks
        if device.type != "cpu":
            self.noise = torch.Generator(device).manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(self.recipe.model, **self._built_for())
        if self.task.start is not None:
            model.load_state_dict(self.task.start)
        num_released = self.task.num_released
        self.sampler = Sampler(
            self.rows,
            len(self.train.y) if num_released is None else num_released,
            self.batch_size,
        )
        self.learner = Learner(model.to(device), self.recipe)
        self.best: dict[str, Tensor] = {}
        self.temperatures: ClassTemperatures | None = None
        if self.method.adapts_temperatures:
            self.temperatures = ClassTemperatures(self.task.num_classes)
        self.memory = self._memory()

    def _memory(self) -> DeltaMemory | None:
        """Begin to keep deltas, if the method does."""
        views, kept = self.knowledge.views, self.method.keeps_deltas
        margin = 0 if views is None else views.shift
        x, device = self.train.x, self.task.device
        if kept == "values":
            return ValueMemory.begin(x, self.generator, margin=margin, device=device)
        if kept == "signs":
            return DeltaMemory.start(
                x,
                self.knowledge.delta_signs,
                self.generator,
                margin=margin,
                device=device,
            )
        return None

    def _built_for(self) -> dict[str, int]:
        """Say which images and classes the model is for."""
        _, channels, size, _ = self.train.x.shape
        num_classes = self.task.num_classes
        return {"in_channels": channels, "image_size": size, "num_classes": num_classes}

    def progress(self) -> float:
        """Return which share of this attempt is done."""
        state, budget_s = self.state, self.task.cpu_budget_s
        if budget_s is None:
            return state.step / (self.recipe.epochs * self.steps_per_epoch())
        used = state.distil_s - state.attempt_began_s
        # A second attempt after the whole budget still gets a third of one.
        return used / max(budget_s - state.attempt_began_s, budget_s / 3)

    def steps_per_epoch(self) -> int:
        """Count the batches of an epoch."""
        return self.sampler.steps_per_epoch()

    def epoch(self, should_stop: Callable[[], bool]) -> EpochPoint:
        """Train one epoch, or what the budget leaves of one; measure at milestones."""
        attacked: Attacked | None = None
        with seeded(self.task.seed, self.state.epoch, device=self.task.device):
            for positions in self.sampler.epoch(self.generator):
                if should_stop():
                    raise Interrupted(
                        "stopped while training; the last checkpoint stays"
                    )
                if self.progress() >= 1:
                    break
                attacked = self.step(positions)
        if self.temperatures is not None:
            self.temperatures.end_epoch()
        state = self.state
        state.epoch += 1
        done = min(self.progress(), 1.0)
        began = state.attempt_began_epoch
        epochs = began + max(1, round((state.epoch - began) / done))
        clean, robust, collapsed = None, None, False
        self.at_milestone = math.floor(done * MILESTONES) > state.milestone
        if self.at_milestone:
            state.milestone = math.floor(done * MILESTONES)
            clean, robust, collapsed = self.validate()
            if attacked is not None and self.task.guard_overfitting:
                self.guard_against_overfitting(attacked)
        point = EpochPoint(
            epoch=state.epoch,
            epochs=max(state.epoch, epochs),
            cpu_s=state.distil_s,
            clean_accuracy=clean,
            robust_accuracy=robust,
        )
        state.add(point)
        if collapsed and done >= _COLLAPSE_FROM and not state.attempt:
            state.retry()
            self.begin()
        return point

    def step(self, positions: Tensor) -> Attacked | None:
        """Train on one batch; return how it was attacked, if it was."""
        began = self.clock()
        progress, state = self.progress(), self.state
        warmup = min(self.recipe.eps_warmup_epochs / self.recipe.epochs, 0.5)
        rate = self.recipe.learning_rate * self.schedule(progress)
        if state.attempt:  # after a collapse: more gently
            warmup, rate = max(2 * warmup, 0.5), rate / 3
        share = max(warmed_up(progress, warmup), _MIN_EPS)
        attack, more = self.recipe.attack, 2**state.doublings
        setting = Setting(
            recipe=self.recipe,
            eps=self.task.eps * share,
            steps=attack.steps * more,
            step_size=attack.step_size * share / more,
            progress=progress,
            temperature=self.knowledge.temperature,
            generator=self.noise,
            class_temperatures=self.temperatures,
            teacher=self.task.teacher,
        )
        batch = self.batch(positions, setting.eps)
        self.sampler.count(positions)
        delta = None
        if self.method.craft is not None:
            self.learner.begin_attack()
            attack_began = self.clock()
            if self.finds_targets:
                target = find_target(self.learner.forward, batch, setting)
                batch = batch._replace(target=target)
            delta = self.method.craft(self.learner.forward, batch, setting)
            state.attack_s += self.clock() - attack_began
            self.learner.end_attack()
            if self.memory is not None:
                at = positions.to(self.task.device)
                self.memory.keep(at, delta, batch.x, batch.place)
        loss = self.method.loss(self.learner.forward, batch, delta, setting)
        if self.recipe.jacobian_weight > 0:
            penalty = jacobian_penalty(self.learner.forward, batch, setting)
            loss = loss + self.recipe.jacobian_weight * penalty
        self.learner.step(loss, rate)
        state.step += 1
        state.distil_s += self.clock() - began
        return None if delta is None else attacked_images(batch, delta, setting.eps)

    def batch(self, positions: Tensor, eps: float) -> Batch:
        """Collect what is known of some samples, in their view of this epoch."""
        device, know, index = self.task.device, self.knowledge, None
        at = positions.to(device)
        plain, y = self.train.batch(at)
        x, shown = plain, None
        if know.views is not None:
            view = know.views.turn(
                positions, self.sampler.passes(positions, self.state.epoch)
            )
            height, width = plain.shape[2:]
            index = know.views.index(positions, view, height, width, device)
            x = show(plain, index, know.views.shift)
            shown = view.to(device)
        return Batch(
            x=x,
            y=y,
            soft_labels=know.labels_of(at, shown),
            delta=None if self.memory is None else self.memory.recall(at, eps, index),
            boundary=None if know.boundary is None else know.boundary.batch(plain, at),
            taught=None if know.taught is None else know.taught[at],
            place=index,
        )

    def validate(self) -> tuple[float, float, bool]:
        """Measure clean and PGD accuracy and collapse; keep the best weights."""
        began, state, task = self.clock(), self.state, self.task
        weights = self.learner.weights()
        student = self.learner.student(weights)
        x, y = self.val.batch(torch.arange(len(self.val.y)))
        classes = predict(student, x)
        x_adv = pgd(
            student,
            x.to(task.device),
            y.to(task.device),
            eps=task.eps,
            step_size=task.eps / 2,
            steps=_VAL_STEPS,
            random_start=True,
            generator=torch.Generator(task.device).manual_seed(task.seed),
        )
        is_right = classes == y
        clean = float(is_right.double().mean())
        robust = float(((predict(student, x_adv) == y) & is_right).double().mean())
        if robust >= state.best_robust:
            self.best = weights
            state.best_robust, state.best_epoch = robust, state.epoch
        state.last_robust = robust
        state.evaluate_s += self.clock() - began
        return clean, robust, is_collapsed(classes, task.num_classes, labels=y)

    def guard_against_overfitting(self, attacked: Attacked) -> None:
        """Double the attack's steps, of half the size, if it has been overfitted to.

        Against catastrophic overfitting, see overfitting.py. It must show at two
        milestones in a row: at a high learning rate a student overfits to a one-step
        attack now and then, and recovers by itself.
        """
        began, state, task = self.clock(), self.state, self.task
        if 2 * self.recipe.attack.steps * 2**state.doublings <= MAX_STEPS:
            generator = torch.Generator(task.device).manual_seed(task.seed)
            self.learner.begin_attack()
            now = is_overfitted(self.learner.model, attacked, generator=generator)
            state.doublings += now and state.was_overfitted
            state.was_overfitted = now and not state.was_overfitted
            self.learner.end_attack()
        state.evaluate_s += self.clock() - began

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold beside the state."""
        tensors = {
            **{f"learner.{k}": v for k, v in self.learner.tensors().items()},
            **{f"best.{k}": v for k, v in self.best.items()},
            "generator": self.generator.get_state(),
            **{f"sampler.{k}": v for k, v in self.sampler.tensors().items()},
        }
        if self.noise is not self.generator:
            tensors["noise"] = self.noise.get_state()
        if self.memory is not None:
            tensors["deltas"] = self.memory.tensor()
        if self.temperatures is not None:
            tensors["class_temperatures"] = self.temperatures.tensor()
        return tensors

    def resume(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` returned; the state is in place already."""
        self.learner.load(under("learner.", tensors))
        self.best = under("best.", tensors)
        self.generator.set_state(tensors["generator"])
        self.sampler.load(under("sampler.", tensors))
        if self.noise is not self.generator:
            self.noise.set_state(tensors["noise"])
        if self.memory is not None:
            self.memory.load(tensors["deltas"])
        if self.temperatures is not None:
            self.temperatures.load(tensors["class_temperatures"])


def tuned(recipe: StudentConfig) -> StudentConfig:
    """Change a recipe to one that trains given weights further.

    At a lower rate, or the weights would be forgotten before they are used; and with
    the full eps from the start, which they bear.
    """
    tuning = recipe.tuning or TuningConfig()
    return recipe.model_copy(
        update={
            "learning_rate": recipe.learning_rate * tuning.learning_rate,
            "epochs": tuning.epochs,
            "eps_warmup_epochs": 0,
        }
    )


def trained_rows(method: Method, task: Task) -> Tensor:
    """List the images that a method can train on: positions, ascending.

    Raises:
        DataError: there are none.
    """
    usable = torch.ones(len(task.train.y), dtype=torch.bool)
    if "labels" in method.needs:
        usable &= task.train.y >= 0
    if "soft_labels" in method.needs and task.knowledge.taught is not None:
        usable &= task.knowledge.taught
    if not bool(usable.any()):
        what = " and ".join(need.replace("_", " ") for need in method.needs)
        raise DataError(
            f"none of the {len(usable)} training images has {what}, which the method "
            "of the student needs; add labelled images, or use method takt"
        )
    return usable.nonzero()[:, 0]


def relabelled(task: Task, method: Method) -> Knowledge:
    """Put what a method learns from in the place of the teacher's soft labels.

    Samples without a true label keep no meaning: the method is not trained on them.
    """
    soft = None if method.relabel is None else task.knowledge.stacked()
    if method.relabel is None or soft is None:
        return task.knowledge
    y = task.train.y[: len(soft)]
    labelled = y >= 0
    changed = torch.zeros_like(soft)
    changed[labelled] = method.relabel(soft[labelled], y[labelled])
    return replace(task.knowledge, soft_labels=changed, own=None)


def attacked_images(batch: Batch, delta: Tensor, eps: float) -> Attacked | None:
    """Keep what the check for overfitting looks at: images with a true label."""
    labelled = batch.y >= 0
    if not bool(labelled.any()):
        return None
    if bool(labelled.all()):
        return Attacked(batch.x, batch.y, delta, eps)
    return Attacked(batch.x[labelled], batch.y[labelled], delta[labelled], eps)
