"""Checkpoints: ``<dir>/iterN`` with ``dynamicemb_module``, ``torch_module`` and ``manifest.json``.

All is written into a folder aside, synced and renamed, so that ``iterN`` is whole or not there.
Rows of tables are in the order of their keys: equal tables are equal files. No code in it is run.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from hstu_training._core.files import sha256, sync
from hstu_training.training.processes import Processes

FORMAT = "hstu_training checkpoint 1"
MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """What is wrong with a checkpoint, and where."""


def fail(path: object, message: str) -> NoReturn:
    raise CheckpointError(f"hstu_training: {path}: {message}")


@dataclass
class State:
    """What a checkpoint holds.

    Args:
        step: steps done.
        model: sizes that a model must have to load it.
        progress: what the trainer wants back.
    """

    step: int
    model: dict[str, Any]
    progress: dict[str, Any]


def sort_dump(folder: Path) -> None:
    """Brings the rows of every table of a dump of ``dynamicemb`` into the order of their keys."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    for keys_path in sorted(folder.glob("*_emb_keys.*")):
        table, _, suffix = keys_path.name.partition("_emb_keys.")
        order = np.argsort(np.fromfile(keys_path, np.int64), kind="stable")
        for part in ("emb_keys", "emb_values", "emb_scores", "opt_values"):
            file = folder / f"{table}_{part}.{suffix}"
            if file.exists() and len(order):
                rows = np.fromfile(file, np.uint8).reshape(len(order), -1)
                rows[order].tofile(file)
                sync(file)
        for entry in manifest.get("tables", {}).values():
            for name, said in entry.get("files", {}).items():
                if name.startswith(f"{table}_") and name.endswith(suffix):
                    said["sha256"] = sha256(folder / name)
    path.write_text(json.dumps(manifest))
    sync(path)


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Checkpoints:
    """The checkpoints of one folder.

    Args:
        folder: of them; None: nothing is saved.
        keep: so many stay, the newest ones.
        processes: all of them call every method.
    """

    def __init__(self, folder: str | None, keep: int, processes: Processes) -> None:
        self.folder = None if folder is None else Path(folder).absolute()
        self.keep, self.processes = keep, processes
        if self.folder is not None and processes.rank == 0:
            for stale in self.folder.glob(".iter*"):  # of a run that was killed
                shutil.rmtree(stale, ignore_errors=True)

    def save(
        self,
        state: State,
        dense: nn.Module,
        optimizer: torch.optim.Optimizer,
        dump: Callable[[Path], None] | None,
        extra: Mapping[str, Any],
    ) -> str | None:
        """Writes ``iterN``.

        Args:
            state: see there.
            dense, optimizer: of the first process, all have the same.
            dump: writes the dynamic tables into a folder.
            extra: more tensors and numbers.

        Returns:
            what went wrong on any process, or None.
        """
        assert self.folder is not None
        target = self.folder / f"iter{state.step}"
        made = self.folder / self.processes.from_first(f".iter{state.step}.{secrets.token_hex(8)}")
        problem = None
        try:
            if self.processes.rank == 0:
                self._write_dense(made, dense, optimizer, extra)
            self.processes.barrier()
            if dump is not None:
                dump(made / "dynamicemb_module")
            self.processes.barrier()
            if self.processes.rank == 0:
                self._finish(made, target, state)
        except (OSError, RuntimeError) as error:  # tables say of every rank what went wrong on one
            problem = f"rank {self.processes.rank}: {error}"
        problems = [p for p in self.processes.all(problem) if p]
        if self.processes.rank == 0:
            shutil.rmtree(made, ignore_errors=True)
            if not problems:
                self._forget()
        return problems[0] if problems else None

    def _write_dense(
        self, made: Path, dense: nn.Module, optimizer: torch.optim.Optimizer,
        extra: Mapping[str, Any],
    ) -> None:  # fmt: skip
        (made / "torch_module").mkdir(parents=True)
        for name, value in (
            ("model.pt", dense.state_dict()),
            ("optimizer.pt", optimizer.state_dict()),
            ("extra.pt", dict(extra)),
        ):
            path = made / "torch_module" / name
            try:
                torch.save(value, path)
            except RuntimeError as error:  # what PyTorch's writer makes of a full disk
                raise OSError(f"{path}: {error}") from error
            sync(path)

    def _finish(self, made: Path, target: Path, state: State) -> None:
        tables = made / "dynamicemb_module"
        for folder in sorted({path.parent for path in tables.rglob(MANIFEST)}):
            sort_dump(folder)
        manifest = {
            "format": FORMAT, "step": state.step, "world": self.processes.world,
            "model": state.model, "progress": state.progress, "files": _files(made),
        }  # fmt: skip
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in (made / MANIFEST, *(p for p in made.rglob("*") if p.is_dir()), made):
            sync(path)
        if target.exists():
            aside = made.with_name(f"{made.name}.old")
            os.rename(target, aside)
            os.rename(made, target)
            shutil.rmtree(aside)
        else:
            os.rename(made, target)
        sync(target.parent)

    def there(self) -> list[Path]:
        """The folders ``iterN``, oldest first."""
        if self.folder is None or not self.folder.is_dir():
            return []
        found = [(re.fullmatch(r"iter(\d+)", path.name), path) for path in self.folder.iterdir()]
        numbered = sorted((int(match[1]), path) for match, path in found if match)
        return [path for _, path in numbered]

    def _forget(self) -> None:
        for path in self.there()[: -self.keep]:
            shutil.rmtree(path, ignore_errors=True)

    def latest(self) -> Path | None:
        """The newest whole one; says what it passes over."""

        def find() -> Path | None:
            for path in reversed(self.there()):
                try:
                    read_manifest(path)
                except CheckpointError as error:
                    print(f"passed over: {error}", flush=True)
                    continue
                return path
            return None

        found: Path | None = self.processes.from_first(find() if self.processes.rank == 0 else None)
        return found


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, every file of which is as it was written.

    Raises:
        CheckpointError: it is missing, truncated, altered or of another version.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        fail(path, "there is no checkpoint")
    except ValueError as error:
        fail(path, f"the manifest cannot be read ({error})")
    if manifest.get("format") != FORMAT:
        fail(path, f"format {manifest.get('format')!r}, expected {FORMAT!r}")
    for name, said in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            fail(file, "the file is missing")
        if file.stat().st_size != said["bytes"]:
            fail(file, f"{file.stat().st_size} bytes, expected {said['bytes']}")
        if sha256(file) != said["sha256"]:
            fail(file, f"its SHA-256 is not {said['sha256']}: the file was altered")
    return manifest


def load(
    folder: Path, model: Mapping[str, Any], dense: nn.Module, optimizer: torch.optim.Optimizer,
    load_tables: Callable[[Path], None] | None,
) -> tuple[State, dict[str, Any]]:  # fmt: skip
    """Reads a checkpoint into a model; everything is checked before anything is changed.

    Raises:
        CheckpointError: it is damaged, or another model's: which size differs.
    """
    manifest = read_manifest(folder)
    for name in sorted({*manifest["model"], *model}):
        there, here = manifest["model"].get(name), model.get(name)
        if there != here:
            fail(folder, f"it is of another model: {name} is {there!r} there and {here!r} here")
    where = next(dense.parameters()).device

    def read(name: str) -> Any:
        path = folder / "torch_module" / name
        try:
            return torch.load(path, map_location=where, weights_only=True)
        except pickle.UnpicklingError:
            fail(path, "it holds more than tensors, numbers and text; none of it was run")

    dense_state, optimizer_state, extra = map(read, ("model.pt", "optimizer.pt", "extra.pt"))
    dense.load_state_dict(dense_state)
    optimizer.load_state_dict(optimizer_state)
    if load_tables is not None:
        load_tables(folder / "dynamicemb_module")
    return State(manifest["step"], manifest["model"], manifest["progress"]), extra
