"""`restore COMMAND --help`, made of the command's yaml: its examples, its groups, its settings."""

import textwrap
from dataclasses import dataclass

from restore.config import comments, conf, names
from restore.config.comments import Setting

# Commands without a configuration: how they are typed.
_PLAIN = {
    "list": [
        "restore list",
        "restore list attention backbone",
        "restore list metric --config-dir FOLDER    # with those of your own",
    ],
    "sweep": ["restore sweep runs/sweeps/NAME", "restore sweep runs/sweeps/NAME watch=true"],
}
# Letters of choices that a line has room for.
_ROOM = 90


@dataclass
class Page:
    """What a command's yaml says; the groups by name, each once."""

    examples: list[str]
    groups: list[Setting]
    settings: list[Setting]


def read(command: str) -> Page:
    """The page of a command that has a configuration.

    Of groups that leave nothing to choose, the settings stand among the command's own.
    """
    text = conf().joinpath(f"{command}.yaml").read_text(encoding="utf-8")
    groups = {
        group.key.partition("@")[0].strip("/"): group.default for group in comments.groups(text)
    }
    settings = list(comments.settings(text))
    for group in groups:
        if names(group) == ["default"]:
            inner = conf().joinpath(group, "default.yaml").read_text(encoding="utf-8")
            settings += [s._replace(key=f"{group}.{s.key}") for s in comments.settings(inner)]
    listed = [Setting(name, choice, "") for name, choice in groups.items()]
    return Page(comments.examples(text), listed, settings)


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
        lines += _table([g._replace(comment=_choices(g.key)) for g in choices])
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
    cells = [(f"{s.key}={_shown(s.default)}", s.comment) for s in settings]
    width = min(34, max(len(left) for left, _ in cells))
    return [f"  {left:<{width}}  {right}".rstrip() for left, right in cells]


def _shown(default: str) -> str:
    """A default as one reads it: what has to be given in capitals."""
    return "REQUIRED" if default == "???" else default
