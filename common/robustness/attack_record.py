"""What AutoAttack has done of an evaluation, on disk: a stopped one goes on from there.

The package keeps the names of whole attacks at most, and not what they found. Here
every call of an attack on a batch is recorded with what it changed, and answered from
the record when the package, run again from its start, makes the same call. Batches,
order, checks and the result therefore stay the package's own. Not here: running it
(autoattack.py).
"""

import hashlib
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from common.durable import storing, write_atomic
from common.tensor_file import encode_tensors, read_tensors

_KEY = "takt.autoattack"
_ATTACKS = ("apgd", "apgd_targeted", "fab", "square")  # of the package's object


class _Note(BaseModel):
    """What the file's header says: of each call, in their order, one entry a list."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    evaluation: str  # its digest
    calls: list[str]  # digests of attack, images and labels
    num_changed: list[int]  # images
    flags: list[list[str]]  # raised by then
    sha256: str = ""  # of this and the tensors

    def checksum(self, tensors: dict[str, Tensor]) -> str:
        """Digest the whole file: a header may be damaged as well."""
        rest = self.model_copy(update={"sha256": ""}).model_dump_json()
        return _digest(rest, sorted(tensors.items()))


class _Call(NamedTuple):
    """An attack on one batch, and what it returned."""

    digest: str
    rows: Tensor  # int64 (M,): the images that it changed
    pixels: Tensor  # (M, C, H, W): what they became
    random: Tensor  # uint8 (S,): states of torch's generators afterwards
    flags: frozenset[str]


class AttackRecord:
    """The record of one evaluation; it answers the calls that are in it."""

    def __init__(
        self, path: Path, evaluation: str, *, device: torch.device, flags: set[str]
    ) -> None:
        """Read a record; one that is damaged, or of another evaluation, is none.

        Args:
            path: the file; its folder must exist.
            evaluation: digest of all that decides its result, see `digest_of`.
            device: of the model.
            flags: raised so far; those of recorded calls are added to it.
        """
        self._path, self._evaluation = path, evaluation
        self._device, self._flags = device, flags
        self._calls = self._read()
        self._position = 0

    def attach(self, runner: Any) -> None:
        """Answer the calls that the package's `AutoAttack` makes of its attacks."""
        for name in _ATTACKS:
            attack = getattr(runner, name)
            attack.perturb = partial(self._answer, name, attack, attack.perturb)

    def remove(self) -> None:
        """Delete the file of an evaluation that is done.

        Raises:
            StorageError: it cannot be deleted.
        """
        with storing(self._path):
            self._path.unlink(missing_ok=True)

    def _answer(
        self,
        name: str,
        attack: Any,
        perturb: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Attack a batch, or return what the same call returned before."""
        settings = {a: getattr(attack, a, None) for a in ("loss", "targeted", "seed")}
        digest = _digest(f"{name} {settings}", [("x", x), ("y", y)])
        position, self._position = self._position, self._position + 1
        if position < len(self._calls):
            call = self._calls[position]
            if call.digest == digest:
                return self._repeat(call, x)
            del self._calls[position:]  # a randomised model answered otherwise
        x_adv = perturb(x, y)
        rows = (x_adv != x).flatten(1).any(1).nonzero()[:, 0]
        self._calls.append(
            _Call(
                digest=digest,
                rows=rows.cpu(),
                pixels=x_adv[rows].detach().cpu(),
                random=self._random_state(),
                flags=frozenset(self._flags),
            )
        )
        self._write()
        return x_adv

    def _repeat(self, call: _Call, x: Tensor) -> Tensor:
        """Return what a call returned, and leave what it left."""
        self._flags |= call.flags
        size = len(torch.get_rng_state())
        torch.set_rng_state(call.random[:size].clone())  # it takes no views
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(call.random[size:].clone(), self._device)
        x_adv = x.clone()
        x_adv[call.rows.to(x.device)] = call.pixels.to(x)
        return x_adv

    def _random_state(self) -> Tensor:
        """Join the states of the generators that a randomised model draws from.

        The attacks themselves draw the same for each batch: each call seeds them anew.
        """
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return torch.cat(states)

    def _write(self) -> None:
        tensors = {
            "rows": torch.cat([call.rows for call in self._calls]),
            "pixels": torch.cat([call.pixels for call in self._calls]),
            "random": torch.stack([call.random for call in self._calls]),
        }
        note = _Note(
            evaluation=self._evaluation,
            calls=[call.digest for call in self._calls],
            num_changed=[len(call.rows) for call in self._calls],
            flags=[sorted(call.flags) for call in self._calls],
        )
        note = note.model_copy(update={"sha256": note.checksum(tensors)})
        data = encode_tensors(tensors, _KEY, note.model_dump())
        write_atomic(self._path, data, point="autoattack.record")

    def _read(self) -> list[_Call]:
        """Read the calls; a file that cannot be used costs time only."""
        try:
            tree, tensors = read_tensors(self._path, _KEY)
            note = _Note.model_validate(tree)
        except (OSError, ValueError, ValidationError):
            return []
        is_whole = note.sha256 == note.checksum(tensors)
        if not is_whole or note.evaluation != self._evaluation:
            return []
        parts = zip(
            note.calls,
            torch.split(tensors["rows"], note.num_changed),
            torch.split(tensors["pixels"], note.num_changed),
            tensors["random"],
            map(frozenset, note.flags),
            strict=True,
        )
        return [_Call(*part) for part in parts]


def digest_of(model: nn.Module, x: Tensor, y: Tensor, **settings: object) -> str:
    """Digest a model, the images that it is attacked on, and the settings."""
    parts = chain(model.named_parameters(), model.named_buffers())
    return _digest(f"{model} {settings}", [*sorted(parts), ("x", x), ("y", y)])


def _digest(text: str, tensors: list[tuple[str, Tensor]]) -> str:
    found = hashlib.sha256(text.encode())
    for name, tensor in tensors:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        data = tensor.detach().cpu().contiguous().flatten()
        found.update(data.view(torch.uint8).numpy().data)
    return found.hexdigest()
