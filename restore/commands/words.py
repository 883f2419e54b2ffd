"""Reading what was typed behind a command: values with odd characters, words without a key."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from restore.commands import usage
from restore.config import names
from restore.errors import UserError

# Hydra's options that a word of their own follows.
_VALUED = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--info", "-i")


def gathered(words: Sequence[str], key: str) -> list[str]:
    """The words, those that are no override (or name a file all the same) as the list `key`.

    Raises UserError for an empty one.
    """
    bare = bare_words(words)
    if any(word.strip("'\"") == "" for word in bare):
        raise UserError(f"{key}: one of them is given without a name")
    rest = [word for word in words if word not in bare]
    return [f"{key}=[{','.join(map(_quoted, bare))}]", *rest] if bare else rest


def bare_words(words: Sequence[str]) -> list[str]:
    """The words that are neither an override nor an option nor an option's value."""
    bare = []
    for before, word in zip(["", *words], words):
        own = not word.startswith("-") and before not in _VALUED
        if own and not re.match("~(?!/|$)", word) and ("=" not in word or os.path.exists(word)):
            bare.append(word)
    return bare


def check(command: str, words: Sequence[str]) -> None:
    """Raises UserError for a word that is no override, with the form that was probably meant."""
    _check_options(words)
    for before, word in zip(["", *words], words):
        if word.startswith("--") and not _is_option(word):
            key, given, value = word.lstrip("-").partition("=")
            value = value if given else "VALUE"
            raise UserError(f"there is no option {word}; settings have no dashes: {key}={value}")
        if before in _VALUED or word.startswith(("-", "~")) or "=" in word:
            continue
        raise UserError(
            f"'{word}' has no key; {_meant(command, word)} "
            f"(restore {command} --help lists the settings)"
        )


def _check_options(words: Sequence[str]) -> None:
    """Raises UserError for an option without its value, and for one that is of no use here."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise UserError(message)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    known, rest = parser.parse_known_args(words)
    if unknown := [word for word in rest if re.match("-[^-]", word)]:
        raise UserError(f"there is no option {unknown[0]}; settings have no dashes: key=value")
    if known.experimental_rerun is not None:
        raise UserError(
            "--experimental-rerun does not work here: restore train resume=RUN resumes a run"
        )


def _is_option(word: str) -> bool:
    """Whether Hydra knows a long option, which it also does by its beginning."""
    from hydra._internal.utils import get_args_parser

    known = get_args_parser()._option_string_actions
    return any(option.startswith(word.partition("=")[0]) for option in known)


def _meant(command: str, word: str) -> str:
    page = usage.read(command)
    if any(setting.key == word for setting in page.settings):
        return f"{word} needs a value: {word}=VALUE, without spaces"
    for group in [group.key for group in page.groups]:
        if word in names(group):
            return f"did you mean {group}={word}?"
    if command == "train" and (Path(word) / "config.yaml").is_file():
        return f"did you mean resume={word}?"
    needed = [setting.key for setting in page.settings if setting.default == "???"]
    if needed:
        return f"did you mean {needed[0]}={word}?"
    return f"settings are key=value, as in {page.examples[0]}"


def literal(override: str) -> str:
    """The override with its value quoted where Hydra's grammar would not take it as it stands.

    So `input=photo (1).jpg` needs no second pair of quotes; nor does a file whose name Hydra would
    read as something else (`input=a,b.png`), when there is such a file; nor do the members of a
    list (`model=[attention=soft,backbone.blocks=[1,2]]`).
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, given, value = override.partition("=")
    if not given or override.startswith("-"):
        return override
    if "${" in value and os.path.exists(value):
        value = value.replace("${", r"\${")  # part of a name, nothing that stands for another
    elif not (os.path.exists(value) and re.search(r"[^\w./~+-]", value)):
        with suppress(HydraException):
            OverridesParser.create().parse_override(override)
            return override
    if value.startswith("[") and value.endswith("]") and not os.path.exists(value):
        return f"{key}=[{','.join(map(_quoted, members(value[1:-1])))}]"
    return f"{key}={_quoted(value)}"


def as_text(overrides: Sequence[str], key: str, value: object = None) -> list[str]:
    """The overrides, the one that gave a setting its value as the text that was typed.

    Where none is the setting's own, those that gave the value to another one, which it repeats.
    """
    place = re.sub(r"\[[0-9]+\]", "", key)
    own = [o for o in overrides if o.partition("=")[0].lstrip("+") == place]
    if not own and value is not None:
        own = [o for o in overrides if o.partition("=")[2].lower() == str(value).lower()]
    return [_text(override) if override in own else override for override in overrides]


def _text(override: str) -> str:
    """The override with each value that Hydra would take for a number, true or false quoted."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, _, value = override.partition("=")
    listed = value.startswith("[") and value.endswith("]")
    values = members(value[1:-1] if listed else value)
    for place, word in enumerate(values):
        with suppress(HydraException):  # a part of something quoted
            parsed = OverridesParser.create().parse_override(f"key={word}")
            if not parsed.is_sweep_override() and isinstance(parsed.value(), int | float):
                values[place] = _quoted(word)
    joined = ",".join(values)
    return f"{key}=[{joined}]" if listed else f"{key}={joined}"


def members(listed: str) -> list[str]:
    """What stands between a list's commas, those within brackets of its own aside."""
    parts, depth = [""], 0
    for letter in listed:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [member.strip() for member in parts]


def _quoted(value: str) -> str:
    if re.fullmatch(r"'.*'|\".*\"", value):
        return value
    return "'" + value.replace("'", r"\'") + "'"
