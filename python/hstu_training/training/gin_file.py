"""Reading gin files so that every error says the file and the line."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import gin
from gin import config_parser

_T = TypeVar("_T")
_places: dict[tuple[str, str], str] = {}  # (class, field) -> "file:line"


class ConfigError(ValueError):
    """A setting that cannot be used: its name, value, place, and what is allowed."""


class _Anything:
    """What the parser asks for the values of references, which nobody reads here."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> str:
        return scoped_configurable_name

    def macro(self, macro_name: str) -> str:
        return macro_name


def _remember(path: Path) -> None:
    with open(path, encoding="utf-8") as file:
        for statement in config_parser.ConfigParser(file, _Anything()):
            where = f"{path}:{statement.location.line_num}"
            if isinstance(statement, config_parser.IncludeStatement):
                included = Path(statement.filename)
                beside = path.parent / included
                _remember(beside if beside.exists() else included)
            elif isinstance(statement, config_parser.BindingStatement):
                _places[statement.selector.rpartition(".")[2], statement.arg_name] = where


def parse(path: str | Path, bindings: Sequence[str] = ()) -> None:
    """Reads a gin file and bindings (``Class.field = value``) that come after it.

    Raises:
        ConfigError: it is missing or is no gin, or a name is unknown, with file and line.
    """
    gin.clear_config()
    _places.clear()
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"hstu_training: gin-config-file {path} is not there")
    gin.add_config_file_search_path(str(path.parent))
    try:
        _remember(path)
        gin.parse_config_files_and_bindings([str(path)], list(bindings), finalize_config=False)
    except (SyntaxError, ValueError, TypeError, OSError, AttributeError) as error:
        raise ConfigError(f"hstu_training: {path}: {_first_line(error)}") from error
    for binding in bindings:
        key = binding.partition("=")[0].strip().rpartition("/")[2]
        kind, _, name = key.rpartition(".")
        _places[kind, name] = f"--gin-bindings {binding!r}"


def _first_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.lineno}: {error.msg}"
    return " ".join(str(error).split())


def fail(owner: object, name: str, allowed: str) -> NoReturn:
    """Raises a ConfigError for a field of a gin class."""
    kind = type(owner).__name__
    place = _places.get((kind, name))
    where = f" ({place})" if place else ""
    value = getattr(owner, name)
    raise ConfigError(f"hstu_training: {kind}.{name} must be {allowed}, got {value!r}{where}")


def _fits(value: object, wanted: Any) -> bool:
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return True
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(v, inner[0]) for v in value)
    if inner:  # a union
        return any(_fits(value, one) for one in inner)
    return isinstance(value, wanted)


def _said(wanted: Any) -> str:
    text = str(getattr(wanted, "__name__", wanted)) if not typing.get_args(wanted) else str(wanted)
    return text.replace("typing.", "").replace(", ...", ", ...")


def check_types(owner: Any) -> None:
    """Raises ConfigError for the first field whose value has not its annotated type."""
    hints = typing.get_type_hints(type(owner))
    for field in dataclasses.fields(owner):
        value, wanted = getattr(owner, field.name), hints[field.name]
        if not _fits(value, wanted):
            fail(owner, field.name, f"of type {_said(wanted)}")
        if typing.get_origin(wanted) is tuple:
            object.__setattr__(owner, field.name, tuple(value))


def at_least(owner: Any, least: float, *names: str) -> None:
    """Raises ConfigError for the first of the fields, if given, below ``least``."""
    for name in names:
        value = getattr(owner, name)
        if value is not None and not value >= least:
            fail(owner, name, f">= {least}")


def make(kind: type[_T]) -> _T:
    """The settings of one gin class.

    Raises:
        ConfigError: a value is missing, or of a wrong type or range.
    """
    try:
        return kind()
    except ConfigError as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    except TypeError as error:
        missing = [
            field.name
            for field in dataclasses.fields(kind)  # type: ignore[arg-type]
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
            and (kind.__name__, field.name) not in _places
        ]
        if not missing:
            raise
        raise ConfigError(
            f"hstu_training: {kind.__name__}.{missing[0]} must be given in the gin file"
        ) from error
