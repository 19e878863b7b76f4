"""Increments of a whole model's dynamic tables: what was trained since a score."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynamicemb import dump_load
from dynamicemb.arguments import checks
from dynamicemb.batched_dynamicemb_tables import BatchedDynamicEmbeddingTablesV2
from dynamicemb.link import Link

Increment = dict[str, dict[str, tuple[Tensor, Tensor]]]


def collections_of(model: nn.Module) -> dict[str, list[BatchedDynamicEmbeddingTablesV2]]:
    """The modules of dynamic tables by the path of the collection that they are in."""
    found: dict[str, list[BatchedDynamicEmbeddingTablesV2]] = {}
    for path, module in model.named_modules():
        if isinstance(module, BatchedDynamicEmbeddingTablesV2):
            parent = path.rpartition("._groups.")[0] if "._groups." in path else path
            if path.startswith("_groups."):
                parent = ""
            found.setdefault(parent, []).append(module)
        # TorchRec's sharded collections keep their lookups in a list of their own.
        for lookup in getattr(module, "_lookups", ()):
            for inner in lookup.modules():
                if isinstance(inner, BatchedDynamicEmbeddingTablesV2):
                    wrapped = path.replace("_dmp_wrapped_module.", "")
                    found.setdefault(wrapped, []).append(inner)
    return found


def incremental_dump(
    model: nn.Module, score_threshold: int | Mapping[str, Mapping[str, int]], pg: object = None
) -> tuple[Increment, dict[str, dict[str, int]]] | None:
    """Keys and weights of rows with a score of at least the threshold, on the CPU; over several
    ranks on each of them at once, with that rank's threshold.

    Args:
        model: holds ``BatchedDynamicEmbeddingTablesV2`` modules or collections of them.
        score_threshold: one for all tables, or ``{collection path: {table: threshold}}``.
        pg: of several processes, for modules that a framework dealt out to them. Tables of a
            collection with a process group know theirs: every rank gets the rows of all.

    Returns:
        ``{collection: {table: (keys, values)}}`` and ``{collection: {table: next threshold}}``;
        None, with a warning, for a model without dynamic tables.
    """
    collections = collections_of(model)
    if not collections:
        warnings.warn("dynamicemb: the model has no dynamic tables", stacklevel=2)
        return None
    dumped: Increment = {}
    scores: dict[str, dict[str, int]] = {}
    for path, modules in collections.items():
        if not isinstance(score_threshold, int) and path not in score_threshold:
            continue
        wanted: Any = score_threshold if isinstance(score_threshold, int) else score_threshold[path]
        for module in modules:
            thresholds = wanted
            if not isinstance(wanted, int):
                thresholds = {n: s for n, s in wanted.items() if n in module.table_names}
            some, following = module.incremental_dump(thresholds)
            link = None if module.part is None else module.part.link
            if link is None and pg is not None:
                link = Link(pg)
            if link is not None:
                some = {name: (link.rows(k), link.rows(v)) for name, (k, v) in some.items()}
            dumped.setdefault(path, {}).update(some)
            scores.setdefault(path, {}).update(following)
    return dumped, scores


def get_score(model: nn.Module) -> dict[str, dict[str, int]] | None:
    """``{collection: {table: threshold}}``: rows trained from now on have at least that score."""
    collections = collections_of(model)
    if not collections:
        warnings.warn("dynamicemb: the model has no dynamic tables", stacklevel=2)
        return None
    scores: dict[str, dict[str, int]] = {}
    for path, modules in collections.items():
        for module in modules:
            scores.setdefault(path, {}).update(module.get_score())
    return scores


def set_score(model: nn.Module, table_score: int | Mapping[str, Mapping[str, int]]) -> None:
    """Scores of the next forwards, for tables with CUSTOMIZED scores."""
    for path, modules in collections_of(model).items():
        for module in modules:
            if isinstance(table_score, int):
                module.set_score(dict.fromkeys(module.table_names, table_score))
            elif path in table_score:
                some = {n: s for n, s in table_score[path].items() if n in module.table_names}
                module.set_score(some)


def _check(path: object, model: object, table_names: object, **switches: bool) -> None:
    if not isinstance(path, (str, os.PathLike)) or "\0" in os.fspath(path):
        checks.fail(f"path must be a path without NUL, got {path!r}")
    checks.instance(model, nn.Module, "model")
    if table_names is not None:
        checks.instance(table_names, Mapping, "table_names")
    for name, value in switches.items():
        checks.boolean(value, name)


def DynamicEmbDump(
    path: str,
    model: nn.Module,
    table_names: Mapping[str, list[str]] | None = None,
    optim: bool = False,
    counter: bool = False,
    pg: object = None,
    allow_overwrite: bool = False,
) -> None:
    """Dumps every collection of dynamic tables to ``<path>/<its path in the model>``.

    Raises:
        ValueError: a dump is there, and ``allow_overwrite`` is False.
    """
    _check(path, model, table_names, optim=optim, counter=counter, allow_overwrite=allow_overwrite)
    for where, modules in collections_of(model).items():
        folder = Path(path) / where
        for number, module in enumerate(modules):
            place = folder if len(modules) == 1 else folder / str(number)
            if not allow_overwrite and place.is_dir() and any(place.iterdir()):
                raise ValueError(
                    f"dynamicemb: path {str(place)!r} is not empty; allow_overwrite=True "
                    "replaces it"
                )
            module.dump(str(place), optim, counter, _names(table_names, where, module))


def DynamicEmbLoad(
    path: str,
    model: nn.Module,
    table_names: Mapping[str, list[str]] | None = None,
    optim: bool = False,
    counter: bool = False,
    pg: object = None,
) -> None:
    """Loads what ``DynamicEmbDump`` wrote, whichever tables went to a module together then."""
    _check(path, model, table_names, optim=optim, counter=counter)
    for where, modules in collections_of(model).items():
        folder = Path(path) / where
        places = _places(folder)
        for module in modules:
            wanted = _names(table_names, where, module)
            by_place: dict[Path, list[str]] = {}
            for name in module.table_names if wanted is None else wanted:
                by_place.setdefault(places.get(name, folder), []).append(name)
            for place, names in by_place.items():
                module.load(str(place), optim, counter, names)


def _places(folder: Path) -> dict[str, Path]:
    """Where the dump of each table is. A dump of several modules replaces the folders 0, 1 ...; one
    of a single module replaces everything."""
    numbered = folder.iterdir() if folder.is_dir() else ()
    inner = sorted((p for p in numbered if p.name.isdigit()), key=lambda p: -int(p.name))
    return {name: place for place in (folder, *inner) for name in dump_load.tables_in(place)}


def _names(
    given: Mapping[str, list[str]] | None, where: str, module: BatchedDynamicEmbeddingTablesV2
) -> list[str] | None:
    if given is None:
        return None
    return [name for name in given.get(where, []) if name in module.table_names]
