"""Dumps: files of whole tables, and increments.

A folder holds, for table T of rank r in a group of W, raw little-endian arrays without headers:
``T_emb_keys.rank_r.world_size_W`` (int64), ``T_emb_values`` (float32 rows), ``T_emb_scores``
(int64) and, if asked for, ``T_opt_values`` (float32), ``T_counter_keys``,
``T_counter_frequencies``; beside them ``T_opt_args.json``, and ``manifest.json`` with the size and
SHA-256 of every file. All is written into a new folder beside, synced, and renamed: a killed dump
leaves the one before.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dynamicemb import dump_ranks
from dynamicemb._core.files import sha256, sync
from dynamicemb.dump_file import DumpFile

if TYPE_CHECKING:
    from dynamicemb.table_api import TableApi as Module

CHUNK = 16384  # rows; memory of this size is used again, not given back
MANIFEST = "manifest.json"
FORMAT = "dynamicemb dump 1"


# ---- Rows as arrays


def _weights_dtype(module: Module) -> torch.dtype:
    dtype = module.options[0].embedding_dtype
    assert dtype is not None
    return dtype


def weights_of(module: Module, table: int, rows: Tensor) -> Tensor:
    """(n, dim) float32 of (n, words)."""
    dim = module.layouts[table].dim
    return rows.view(_weights_dtype(module))[:, :dim].to(torch.float32)


def _state_view(module: Module, table: int, rows: Tensor) -> Tensor:
    """(n, states, state_len) of the rows' state, in its own type: a view."""
    layout = module.layouts[table]
    wide = _weights_dtype(module) == torch.float64
    typed = rows.view(torch.float64) if wide else rows
    begin = layout.state_offset // (8 if wide else 4)
    state = typed[:, begin : begin + layout.states * layout.state_len]
    return state.view(len(rows), layout.states, layout.state_len)


def _words(module: Module, table: int, rows: Tensor, offset: int) -> Tensor:
    """(n) int64 at a byte offset of each row."""
    return rows.view(torch.int64)[:, offset // 8]


def state_of(module: Module, table: int, rows: Tensor) -> Tensor:
    """(n, values) float32: the state arrays without padding, then the row's count of updates."""
    layout = module.layouts[table]
    parts = []
    if layout.states:
        state = _state_view(module, table, rows)[:, :, : layout.state_dim]
        parts.append(state.flatten(1).to(torch.float32))
    if layout.step_offset >= 0:
        steps = rows.view(torch.int32)[:, layout.step_offset // 4]
        parts.append(steps.to(torch.float32)[:, None])
    return torch.cat(parts, 1) if parts else rows.new_zeros(len(rows), 0)


def state_width(module: Module, table: int) -> int:
    layout = module.layouts[table]
    return layout.states * layout.state_dim + (layout.step_offset >= 0)


def _rows_of(module: Module, table: int, weights: Tensor, state: Tensor | None) -> Tensor:
    """(n, words) of weights and state; no state: that of new rows."""
    layout = module.layouts[table]
    words = module.tiers.first.row_bytes // 4
    rows = weights.new_zeros(len(weights), words)
    rows.view(_weights_dtype(module))[:, : layout.dim] = weights.to(_weights_dtype(module))
    if layout.states:
        view = _state_view(module, table, rows)
        if state is None:
            for s, value in enumerate(module.optimizer.initial_state()[: layout.states]):
                view[:, s] = value
        else:
            n = layout.states * layout.state_dim
            given = state[:, :n].reshape(-1, layout.states, layout.state_dim)
            view[:, :, : layout.state_dim] = given.to(view.dtype)
    if layout.step_offset >= 0 and state is not None:
        rows.view(torch.int32)[:, layout.step_offset // 4] = state[:, -1].to(torch.int32)
    return rows


# ---- Writing


def _suffix(module: Module) -> str:
    part = module.part
    return "rank_0.world_size_1" if part is None else f"rank_{part.rank}.world_size_{part.world}"


def _progress(what: str, done: int, total: int) -> None:
    """A bar, where somebody looks."""
    if sys.stderr.isatty():
        share = min(1.0, done / max(total, 1))
        bar = "#" * round(30 * share)
        end = "\n" if done >= total else ""
        print(f"\r{what} [{bar:<30}] {share:4.0%}", end=end, file=sys.stderr, flush=True)


def _said(module: Module, table: int) -> dict[str, Any]:
    """What ``T_opt_args.json`` says."""
    return module.optimizer.as_dict() | {
        "evict_strategy": module._scores.strategy.name,
        "dist_type": module.options[table].dist_type,
        "step_score": module._scores.current(table, module.tiers),
        "dim": module.layouts[table].dim,
    }


def _write_table(
    module: Module, folder: Path, table: int, optim: bool, counter: bool
) -> dict[str, Any]:
    name, suffix = module.table_names[table], _suffix(module)
    parts = ["emb_keys", "emb_values", "emb_scores"]
    if optim:
        parts.append("opt_values")
    files = {part: DumpFile(folder, f"{name}_{part}.{suffix}", threads=True) for part in parts}
    layout, count = module.layouts[table], 0
    total = module.tiers.size(table)
    for keys, rows, scores in module.tiers.export(table, batch=CHUNK):
        files["emb_keys"].write(keys)
        files["emb_values"].write(weights_of(module, table, rows))
        files["emb_scores"].write(scores)
        if optim:
            files["opt_values"].write(state_of(module, table, rows))
        count += len(keys)
        _progress(f"dump {name}", count, total)
    if counter and module._counter is not None:
        for part, array in zip(
            ("counter_keys", "counter_frequencies"), module._counter.export(table), strict=True
        ):
            files[part] = DumpFile(folder, f"{name}_{part}.{suffix}")
            files[part].write(array.to(torch.int64))
    args = _said(module, table)
    if module.part is None or module.part.rank == 0:
        text = json.dumps(args, indent=1, default=str).encode()
        said = files["opt_args"] = DumpFile(folder, f"{name}_opt_args.json")
        said.write(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    entries = {file.name: file.end() for file in files.values()}
    return {"rows": count, "dim": layout.dim, "files": entries}


def _chosen(module: Module, table_names: Sequence[str] | None) -> list[int]:
    names = module.table_names if table_names is None else table_names
    return [module.table_index(name) for name in names]


def check_none_runs(module: Module) -> None:
    """Raises where a dump beside training has not ended."""
    if module.tiers.dump is not None and not module.tiers.dump.done():
        raise RuntimeError("dynamicemb: a dump of these tables is being written: wait for its end")


def dump(
    module: Module,
    save_dir: str | os.PathLike[str],
    optim: bool,
    counter: bool,
    table_names: Sequence[str] | None,
) -> None:
    """Writes tables into a folder, which takes the place of the one that is there in one step.

    Raises:
        ValueError: an unknown table.
        RuntimeError: a dump beside training is not at its end.
        OSError: it cannot be written; the dump that was there is whole.
    """
    check_none_runs(module)
    if module.part is not None:
        dump_ranks.dump(module, module.part, save_dir, optim, counter, table_names)
        return
    tables = _chosen(module, table_names)
    target = Path(os.path.realpath(save_dir))
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    made.mkdir()
    try:
        entries = {
            module.table_names[t]: _write_table(module, made, t, optim, counter) for t in tables
        }
        manifest = {"format": FORMAT, "world_size": 1, "tables": entries}
        file = DumpFile(made, MANIFEST)
        file.write(torch.frombuffer(bytearray(json.dumps(manifest).encode()), dtype=torch.uint8))
        file.end()
        sync(made)
        _replace(made, target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    sync(target.parent)


def _replace(made: Path, target: Path) -> None:
    """Puts a folder in another's place. Where that is one already, a symbolic link of the same
    directory cannot be exchanged; the old one is moved aside first, and `load` finds it there."""
    aside = target.with_name(f".{target.name}.before")
    if aside.exists():
        if not target.exists():
            os.rename(aside, target)
        else:
            shutil.rmtree(aside)
    if target.exists():
        os.rename(target, aside)
    os.rename(made, target)
    shutil.rmtree(aside, ignore_errors=True)


# ---- Reading


def _fail(path: Path, message: str) -> None:
    raise ValueError(f"dynamicemb: {path}: {message}")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        _fail(path, "there is no manifest; a folder that dump() wrote has one")
    except ValueError as error:
        _fail(path, f"the manifest cannot be read ({error})")
    if found.get("format") != FORMAT:
        _fail(path, f"format {found.get('format')!r}, expected {FORMAT!r}")
    return found


def tables_in(folder: Path) -> list[str]:
    """The tables that a folder, or the one that a killed dump moved aside, holds."""
    where = folder if folder.exists() else folder.with_name(f".{folder.name}.before")
    return list(_manifest(where)["tables"]) if (where / MANIFEST).is_file() else []


def _array(path: Path, dtype: torch.dtype, width: int, begin: int, end: int) -> Tensor:
    flat = torch.empty((end - begin) * width, dtype=dtype)
    with open(path, "rb", buffering=0) as file:
        file.seek(begin * width * flat.element_size())
        data = flat.view(torch.uint8).numpy().data
        while len(data) and (read := file.readinto(data)):
            data = data[read:]
    if len(data):
        _fail(path, f"{len(data)} bytes of rows {begin} to {end} are missing")
    return flat.reshape(-1, width) if width > 1 else flat


def _check_table(module: Module, folder: Path, manifest: dict[str, Any], table: int) -> None:
    """All that can be wrong with a table's files, before a row of any is read."""
    name, layout = module.table_names[table], module.layouts[table]
    path = folder / MANIFEST
    entry = manifest["tables"].get(name)
    if entry is None:
        _fail(path, f"no table {name!r}; there are {', '.join(manifest['tables'])}")
    if entry["dim"] != layout.dim:
        _fail(path, f"table {name!r} has dim {entry['dim']}, expected {layout.dim}")
    for file, said in entry["files"].items():
        there = folder / file
        if not there.is_file():
            _fail(there, "the file is missing")
        if there.stat().st_size != said["bytes"]:
            _fail(there, f"{there.stat().st_size} bytes, expected {said['bytes']}")
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(lambda file: sha256(folder / file), entry["files"]))
    for (file, said), found in zip(entry["files"].items(), sums, strict=True):
        if found != said["sha256"]:
            _fail(folder / file, f"its SHA-256 is not {said['sha256']}: the file was altered")
    args = json.loads((folder / f"{name}_opt_args.json").read_text())
    wanted_of = [("evict_strategy", module._scores.strategy.name)]
    if module.part is None:  # ranks find their keys whatever dealt them out before
        wanted_of.append(("dist_type", module.options[table].dist_type))
    for key, wanted in wanted_of:
        if args[key] != wanted:
            _fail(folder / f"{name}_opt_args.json", f"{key} is {args[key]!r}, expected {wanted!r}")


def _read_rows(
    module: Module,
    folder: Path,
    entry: dict[str, Any],
    table: int,
    optim: bool,
    suffix: str,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    name, dim = module.table_names[table], module.layouts[table].dim
    for begin in range(0, entry["rows"], CHUNK):
        end = min(begin + CHUNK, entry["rows"])

        def part(kind: str, dtype: torch.dtype, width: int, a: int = begin, b: int = end) -> Tensor:
            found = _array(folder / f"{name}_{kind}.{suffix}", dtype, width, a, b)
            return found.to(module.device)

        keys, scores = part("emb_keys", torch.int64, 1), part("emb_scores", torch.int64, 1)
        weights = part("emb_values", torch.float32, dim).reshape(-1, dim)
        width = state_width(module, table)
        state = None
        if optim and width:
            state = part("opt_values", torch.float32, width).reshape(-1, width)
        yield keys, _rows_of(module, table, weights, state), scores


def load(
    module: Module,
    save_dir: str | os.PathLike[str],
    optim: bool,
    counter: bool,
    table_names: Sequence[str] | None,
) -> None:
    """Adds the rows of a dump to the tables, with their scores; a present key is overwritten.

    Everything is checked before a table is changed. Another optimizer's state is left aside, with a
    warning.

    Raises:
        ValueError: a file is missing, truncated, altered or of another kind of table: by name, with
            what was expected and found.
    """
    tables = _chosen(module, table_names)
    folder = Path(os.path.realpath(save_dir))
    aside = folder.with_name(f".{folder.name}.before")
    if not folder.exists() and aside.exists():  # a dump was killed between two renames
        folder = aside
    manifest = _manifest(folder)
    for table in tables:
        _check_table(module, folder, manifest, table)
    for table in tables:
        name = module.table_names[table]
        entry = manifest["tables"][name]
        args = json.loads((folder / f"{name}_opt_args.json").read_text())
        has_state = any("_opt_values." in file for file in entry["files"])
        with_state = optim and has_state and args["opt_type"] == module.optimizer.type.name
        if optim and not with_state:
            why = f"of {args['opt_type']}" if has_state else "not in the dump"
            warnings.warn(
                f"dynamicemb: the optimizer's state of table {name!r} is {why}; rows begin with "
                f"that of {module.optimizer.type.name}",
                stacklevel=3,
            )
        dump_ranks.load(module, module.part, folder, manifest, table, with_state)
        module._scores.loaded(table, args.get("step_score", 0))
        if counter and module._counter is not None:
            suffix = _suffix(module)
            counted = folder / f"{name}_counter_keys.{suffix}"
            if counted.is_file():
                n = counted.stat().st_size // 8
                keys = _array(counted, torch.int64, 1, 0, n)
                times = _array(
                    folder / f"{name}_counter_frequencies.{suffix}", torch.int64, 1, 0, n
                )
                module._counter.add(keys, torch.full_like(keys, table), times)


# ---- Increments


def increment(
    module: Module, thresholds: Mapping[str, int] | int
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, int]]:
    """See ``BatchedDynamicEmbeddingTablesV2.incremental_dump``."""
    if isinstance(thresholds, int):
        thresholds = dict.fromkeys(module.table_names, thresholds)
    for name, threshold in thresholds.items():
        module.table_index(name)
        if isinstance(threshold, bool) or not isinstance(threshold, int) or threshold < 0:
            raise ValueError(
                f"dynamicemb: threshold of table {name!r} must be an int >= 0, got {threshold!r}"
            )
    found, scores = {}, {}
    for name, threshold in thresholds.items():
        table = module.table_index(name)
        layout = module.layouts[table]
        least = 0 if layout.stamp_offset >= 0 else threshold
        keys, weights = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, layout.dim)]
        for some, rows, _ in module.tiers.export(table, least):
            if layout.stamp_offset >= 0:
                late = _words(module, table, rows, layout.stamp_offset) >= threshold
                some, rows = some[late], rows[late]
            keys.append(some.cpu())
            weights.append(weights_of(module, table, rows).cpu())
        found[name] = (torch.cat(keys), torch.cat(weights))
        scores[name] = module._scores.current(table, module.tiers)
    return found, scores
