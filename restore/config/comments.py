"""What the yamls of `conf/` say about their settings: defaults as written, and comments."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import yaml

# Keys that Hydra or the construction of objects reads: nothing that a user sets.
_NOT_SETTINGS = ("_target_", "_partial_", "defaults", "hydra")


class Setting(NamedTuple):
    """A dotted key (or a group), its default as written (or its choice), and the comment beside."""

    key: str
    default: str
    comment: str


def examples(text: str) -> list[str]:
    """Commands in the first lines of a command's yaml, each a comment."""
    lines = text.splitlines()
    end = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line[1:].strip() for line in lines[:end]]


def groups(text: str) -> Iterator[Setting]:
    """The groups that a yaml's `defaults` compose, as they stand there (`stage@stages.full`)."""
    for node, comment in _entries(text, "defaults"):
        if isinstance(node, yaml.MappingNode):
            (key, value), *_ = node.value
            if not key.value.startswith("override "):
                yield Setting(key.value, value.value, comment)


def settings(text: str) -> Iterator[Setting]:
    """Every setting of a yaml; a mapping that has a comment of its own is among them."""
    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        yield from _leaves(root, "", text)


def _leaves(node: yaml.MappingNode, prefix: str, text: str) -> Iterator[Setting]:
    for key, value in node.value:
        if key.value in _NOT_SETTINGS:
            continue
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            if comment := _comment(text, key.end_mark.line):
                yield Setting(name, "", comment)
            yield from _leaves(value, f"{name}.", text)
        elif isinstance(value, yaml.SequenceNode) and not value.flow_style:
            yield Setting(name, _in_a_line(value), _comment(text, key.end_mark.line))
        else:
            default = text[value.start_mark.index : value.end_mark.index]
            yield Setting(name, default, _comment(text, value.end_mark.line))


def _in_a_line(node: yaml.Node) -> str:
    """A list that goes over several lines, as it would be written in one; without comments."""
    plain = yaml.SafeLoader("").construct_document(node)
    return yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1 << 20).strip()


def _entries(text: str, key: str) -> Iterator[tuple[yaml.Node, str]]:
    root = yaml.compose(text)
    for name, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if name.value == key:
            for node in value.value:
                yield node, _comment(text, node.start_mark.line)


def _comment(text: str, line: int) -> str:
    """What stands behind the `#` of a line; no value in conf/ holds a blank and a `#`."""
    match = re.search(r"\s#\s*(.*)$", text.splitlines()[line])
    return match[1] if match else ""
