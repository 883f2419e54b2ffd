"""Writes docs/settings.md from the comments of the yamls in conf/: `make docs`."""

from collections.abc import Iterator
from pathlib import Path

from restore.cli import COMMANDS
from restore.config import comments, registry
from restore.utils.tabular import markdown

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "settings.md"

HEAD = """\
# Settings of every command

Written by `make docs` from the comments in `conf/`; do not edit it by hand. Words that are not
explained here are in the [glossary](glossary.md).

A setting is given as `key=value` (`trainer.batch_size=4`), a choice of a group as `group=name`
(`attention=soft`). `???` means that a value must be given. `null` means none. `${key}` stands for
the value of another setting. Values with brackets, braces, spaces or commas need quotes in most
shells: `'task={scale: 2.5}'`. A command prints all that applies to it with `--cfg job`.
"""
GROUPS = """\
A group is a folder of `conf/`, a choice a yaml in it. `restore list attention` prints the choices
of one. The settings of a choice stand under the group's name: `scale` of `backbone=edsr` is
`backbone.scale`. Some groups are placed elsewhere: a `stage` under `stages.NAME`, an
`objective` under its `objectives`, `loss`, `optimizer` and `lr_schedule` under that (see
[losses](losses.md)), a `mapping` under `backbone.mapping`. A choice that begins with another
one's settings lists only what it changes.
"""


def page() -> str:
    """The text of the page."""
    parts = [HEAD, "## Commands\n"]
    for path in sorted(CONF.glob("*.yaml")):
        parts.append(f"### restore {path.stem}\n\n{_capital(COMMANDS[path.stem])}.\n")
        text = path.read_text(encoding="utf-8")
        if groups := list(_groups(text)):
            parts.append(markdown(("group", "choice if none is given", ""), groups))
        parts.append(markdown(("setting", "default", ""), list(_settings(text))))
    parts.append("## Groups\n")
    parts.append(GROUPS)
    for group in registry.groups():
        parts.append(f"### {group}\n")
        names = registry.names(group)
        parts.append(
            markdown(("choice", ""), [(f"`{n}`", registry.describe(group, n)) for n in names])
        )
        if group in ("experiment", "sweep", "recipe"):
            continue  # they hold values of other groups' settings, none of their own
        for name in names:
            text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
            rows, places = list(_settings(text)), [g for g in _groups(text) if "@" in g[0]]
            if rows or places:
                parts.append(f"`{group}={name}`\n")
            if places:
                parts.append(markdown(("group", "choice if none is given", ""), places))
            if rows:
                parts.append(markdown(("setting", "default", ""), rows))
    return "\n".join(parts).rstrip() + "\n"


def _groups(text: str) -> Iterator[tuple[str, str, str]]:
    """The groups that a yaml composes: where, which choice, and the comment."""
    for group in comments.groups(text):
        name = group.key.partition("@")[0].strip("/")
        yield f"[`{group.key.lstrip('/')}`](#{name})", f"`{group.default}`", group.comment


def _settings(text: str) -> Iterator[tuple[str, str, str]]:
    """Every setting of a yaml: its dotted key, the default as written, and the comment."""
    for setting in comments.settings(text):
        yield f"`{setting.key}`", setting.default and f"`{setting.default}`", setting.comment


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
