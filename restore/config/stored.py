"""Configurations that come from files: checkpoints, run folders.

They are data. A part that such a configuration names is made only if the `conf` of this
installation names it for a place of that kind, or what the user gave: a folder by `--config-dir`,
or a setting that was typed. That is decided by reading yaml files, before anything is imported.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from restore.config import renames
from restore.config.groups import MODULE, conf
from restore.errors import UserError

# Pairs of a place's name and a target that the user named, for this process and those it starts.
_TRUSTED = "RESTORE_TRUSTED_PARTS"

# Mappings from names of the user's own to parts, with the kind that all of these are of.
_EACH = {"losses": "loss", "models": "discriminator", "metric": "metric", "perceptual": "metric"}

# Far more than any configuration has; an alias in yaml or pickle can stand for a tree of any size.
_MOST_NODES, _MOST_DEPTH = 20_000, 40

# Where PyYAML has libyaml, its parser is ten times as fast, and there are hundreds of files.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Pair = tuple[str, str]


def stored(config: Any, where: object) -> dict[str, Any]:
    """A configuration that was read from a file, under today's names, found to name known parts.

    Args:
        config: as it was read.
        where: the file, for messages.

    Raises:
        UserError: it is no plain data, or names a part that is not known for its place.
    """
    current = renames.current(data(config, where))
    kinds = _Kinds([*_own_pairs(), *_given_pairs()])
    for path, node in _parts(current):
        _check(path, node, kinds, where)
    return current


def data(config: Any, where: object) -> dict[str, Any]:
    """A copy of the configuration, of nothing but mappings, lists, texts and numbers.

    Raises UserError for anything else, and for one that is too large or too deep to be one.
    """
    count = 0

    def copied(node: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if count > _MOST_NODES or depth > _MOST_DEPTH:
            raise UserError(f"{where}: its configuration is too large")
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if isinstance(node, Mapping):
            if odd := next((key for key in node if not isinstance(key, str | int)), None):
                raise UserError(f"{where}: its configuration has the key {_short(odd)}")
            return {key: copied(value, depth + 1) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [copied(value, depth + 1) for value in node]
        raise UserError(
            f"{where}: its configuration holds a {type(node).__name__}, which is no setting"
        )

    if not isinstance(config, Mapping):
        raise UserError(
            f"{where}: its configuration is not a mapping of settings but {_short(config)}"
        )
    return copied(config, 0)


@contextmanager
def trusting(config: Any = None, searched: Iterable[str] = ()) -> Iterator[None]:
    """While it lasts, stored configurations may also name what the user named.

    This holds for processes that are begun meanwhile, too.

    Args:
        config: a configuration that the user composed.
        searched: folders of yamls, as paths or `file://…` or `pkg://…`.
    """
    pairs = {*_given_pairs(), *(_pairs(config, ()) if config is not None else ())}
    for place in searched:
        scheme, _, rest = place.rpartition("://")
        pairs.update(_package_pairs(rest) if scheme == "pkg" else _tree_pairs(Path(rest)))
    before = os.environ.get(_TRUSTED)
    os.environ[_TRUSTED] = json.dumps(sorted(pairs - set(_own_pairs())))
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TRUSTED]
        else:
            os.environ[_TRUSTED] = before


def _given_pairs() -> set[Pair]:
    return {(name, target) for name, target in json.loads(os.environ.get(_TRUSTED, "[]"))}


@cache
def _own_pairs() -> tuple[Pair, ...]:
    return tuple(_tree_pairs(conf()))


@cache
def _package_pairs(package: str) -> tuple[Pair, ...]:
    """Of an installed tree, which does not change while a process lasts."""
    return _own_pairs() if package == MODULE else tuple(_tree_pairs(files(package)))


class _Kinds:
    """Which targets are of the kind of a place.

    Two places are of a kind when one target stands in both, or the one refers to the other
    (`attention: ${attention}`).
    """

    def __init__(self, pairs: Iterable[Pair]):
        self._joined: dict[str, str] = {}
        # The names of places and of targets apart, for they may be the same word.
        nodes = [(f"place {name}", f"{_sort(target)}") for name, target in pairs]
        for one, other in nodes:
            self._joined[self._root(one)] = self._root(other)
        self._of: dict[str, set[str]] = defaultdict(set)
        for _, other in nodes:
            if other.startswith("target "):
                self._of[self._root(other)].add(other.removeprefix("target "))

    def _root(self, node: str) -> str:
        while (above := self._joined.get(node, node)) != node:
            node = above
        return node

    def targets(self, name: str) -> set[str]:
        """The targets of a place's kind."""
        return self._of.get(self._root(f"place {name}"), set())

    def everywhere(self) -> set[str]:
        """The targets of all kinds."""
        return set().union(*self._of.values())


def _sort(target: str) -> str:
    """A target, or the place that a reference is to, marked as what it is."""
    if refers := re.fullmatch(r"\$\{(\w+)\}", target):
        return f"place {refers[1]}"
    return f"target {target}"


def _check(
    path: Sequence[str | int], node: Mapping[str, Any], kinds: _Kinds, where: object
) -> None:
    key = _dotted(path)
    target, call = node["_target_"], _made(node)
    if odd := [k for k in node if str(k).startswith("_") and k not in ("_target_", "_partial_")]:
        raise UserError(f"{where}: {key}.{odd[0]} is not a setting of a part")
    if isinstance(target, str) and call in kinds.targets(_place(path)):
        return
    what = f"{where} names {_short(target)} as {key}"
    if isinstance(target, str) and call in kinds.everywhere():
        raise UserError(f"{what}, which is a part of another kind; nothing was loaded")
    raise UserError(
        f"{what}, which no yaml of this installation names; nothing was loaded. "
        "For a class of your own give the folder of its yaml, as in training: "
        "--config-dir DIR"
    )


def _made(node: Mapping[str, Any]) -> str:
    """What a part is made by: a call, or, of a partial one, a call later on."""
    return f"{node['_target_']}{' later' if node.get('_partial_', False) is not False else ''}"


def _parts(
    node: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _parts(value, (*path, key))
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from _parts(value, (*path, at))


def _place(path: Sequence[str | int]) -> str:
    """The name of the kind of place that a path leads to."""
    names = [str(step) for step in path if not isinstance(step, int)]
    if len(names) > 1 and names[-2] in _EACH:
        return _EACH[names[-2]]
    return names[-1] if names else ""


def _dotted(path: Sequence[str | int]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).lstrip(".") or "the whole"


def _tree_pairs(folder: Traversable) -> Iterator[Pair]:
    """What the yamls of a folder name, each with the name of its place."""
    for path, text in _texts(folder, ()):
        try:
            content = yaml.load(text, _LOADER)
        except (yaml.YAMLError, RecursionError):
            continue  # composing says what is wrong with it
        if not isinstance(content, dict):
            continue
        # A file of a group fills the group's place, unless it says that it is about all.
        base = () if re.search(r"^#\s*@package\s+_global_", text, re.M) else path[:-1]
        yield from _pairs(content, base)


def _texts(folder: Traversable, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _texts(entry, (*path, entry.name))
        elif entry.name.endswith(".yaml") and entry.is_file():
            yield (*path, entry.name.removesuffix(".yaml")), entry.read_text(encoding="utf-8")


def _pairs(node: Any, path: tuple[str | int, ...]) -> Iterator[Pair]:
    """Places with the targets that stand there, or with the references to other places."""
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield _place(path), _made(node)
        for key, value in node.items():
            if not path and key == "hydra":
                continue
            if key == "defaults" and isinstance(value, list):
                yield from _put(value, path)
                continue
            yield from _pairs(value, (*path, key))
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from _pairs(value, (*path, at))
    elif isinstance(node, str) and path and re.fullmatch(r"\$\{\w+\}", node):
        yield _place(path), node


def _put(defaults: list[Any], path: tuple[str | int, ...]) -> Iterator[Pair]:
    """Groups that a list of defaults puts in places of another name.

    `mapping@second: …` names the group; `file@second` takes a file of the list's own.
    """
    for entry in defaults:
        named = entry if isinstance(entry, dict) else [entry]
        for key in named:
            group, put, place = str(key).removeprefix("override ").strip().partition("@")
            if put:
                if not isinstance(entry, dict):  # a file: the group that it lies in
                    group = group.rpartition("/")[0] if group[0] == "/" else _place(path)
                yield _place(place.split(".")), "${" + group.strip("/").rpartition("/")[2] + "}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
