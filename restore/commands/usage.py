"""`restore COMMAND --help`, made of the command's yaml: its examples, its groups, its settings."""

import re
import textwrap
from dataclasses import dataclass, field

import yaml

from restore.config import conf, names

# Commands without a configuration: how they are typed.
_PLAIN = {
    "list": ["restore list", "restore list attention backbone"],
    "sweep": ["restore sweep runs/sweeps/NAME", "restore sweep runs/sweeps/NAME watch=true"],
}
_SETTING = re.compile(
    r"(?P<indent> *)(?P<key>[\w@/]+):(?: (?P<value>[^#]*?))?(?:\s*# (?P<text>.*))?"
)
_GROUP = re.compile(r"  - (?P<key>[\w/@.]+): (?P<value>[^#]*?)(?:\s*# (?P<text>.*))?")
# Letters of choices that a line has room for.
_ROOM = 90


@dataclass(frozen=True)
class Setting:
    """A key, its default as the yaml has it, and the comment beside it."""

    key: str
    value: str
    text: str


@dataclass
class Page:
    """What a command's yaml says."""

    examples: list[str] = field(default_factory=list)
    groups: list[Setting] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)


def read(command: str) -> Page:
    """The page of a command that has a configuration."""
    lines = conf().joinpath(f"{command}.yaml").read_text(encoding="utf-8").splitlines()
    page = Page()
    for line in lines:
        if not line.startswith("#"):
            break
        page.examples.append(line[1:].strip())
    for line in lines:
        if (found := _GROUP.fullmatch(line)) and not found["key"].startswith("override"):
            group = found["key"].partition("@")[0]
            page.groups.append(Setting(group, found["value"], found["text"] or ""))
    page.groups = list({group.key: group for group in page.groups}.values())
    page.settings = _settings(lines)
    for group in page.groups:
        if names(group.key) == ["default"]:
            text = conf().joinpath(group.key, "default.yaml").read_text(encoding="utf-8")
            page.settings += _settings(text.splitlines(), group.key)
    return page


def _settings(lines: list[str], within: str = "") -> list[Setting]:
    """The keys of a yaml with their comments, those of nested mappings with dots."""
    found: list[Setting] = []
    path = [within] if within else []
    base = len(path)
    skipped = False
    for line in lines:
        match = _SETTING.fullmatch(line)
        if match is None:
            continue
        depth = len(match["indent"]) // 2
        if depth == 0:
            skipped = match["key"] in ("defaults", "hydra")
        if skipped or match["key"].startswith("_"):
            continue
        path = [*path[: base + depth], match["key"]]
        if match["value"] or match["text"]:
            found.append(Setting(".".join(path), match["value"] or "", match["text"] or ""))
    return found


def text(command: str, summary: str) -> str:
    """What `restore COMMAND --help` prints.

    Args:
        command: its name.
        summary: what it does, in a line.
    """
    if command in _PLAIN:
        return "\n".join([f"restore {command}: {summary}", "", *_indented(_PLAIN[command])])
    page = read(command)
    lines = [f"restore {command}: {summary}", "", *_indented(page.examples)]
    choices = [group for group in page.groups if names(group.key) not in ([], ["default"])]
    if choices:
        lines += ["", "Parts (restore list GROUP describes each):", ""]
        lines += _table([Setting(g.key, g.value, _choices(g.key)) for g in choices])
    lines += ["", "Settings:", "", *_table(page.settings), ""]
    lines.append(f"`restore {command} --cfg job` prints the whole configuration as yaml.")
    return "\n".join(lines)


def _indented(examples: list[str]) -> list[str]:
    return [f"    {example}" for example in examples]


def _choices(group: str) -> str:
    known = names(group)
    shown = textwrap.shorten(" | ".join(known), _ROOM, placeholder=" …")
    return shown if len(shown.split(" | ")) == len(known) else f"{shown} ({len(known)})"


def _table(settings: list[Setting]) -> list[str]:
    """Settings in two columns, the second beginning where most first ones have ended."""
    cells = [(f"{s.key}={_shown(s.value)}", s.text) for s in settings]
    width = min(34, max(len(left) for left, _ in cells))
    return [f"  {left:<{width}}  {right}".rstrip() for left, right in cells]


def _shown(value: str) -> str:
    """A default as one reads it: what has to be given in capitals."""
    return "REQUIRED" if yaml.safe_load(value or "null") == "???" else value
