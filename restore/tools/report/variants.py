"""Runs that differ in their seed alone are one variant; what variants differ in is their name."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from restore.tools.report.runs import Run
from restore.utils.nested import leaves

# Settings in which runs may differ and still be trials of the same thing.
_SAME = re.compile(
    r"(seed|folder|resume|wandb|loader|sweep|runtime\.(device|devices|threads)"
    r"|trainer\.(pictures|log_every|save_every))(\.|$)"
)
NOT_GIVEN = "–"  # stands for an override that a variant has none of
_CLASS = "._target_"
_NAMED = 3  # settings of a name, of those that no override tells


@dataclass
class Variant:
    """Runs with equal settings but for the seed, in the order of their seeds.

    `overrides` are those by which the report's variants differ, with – where one has none.
    `channels` is the number that the attention's embedding leaves, where a run says one.
    """

    label: str
    runs: list[Run]
    overrides: dict[str, str] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int | None]:
        """Of its runs."""
        return [run.seed for run in self.runs]

    @property
    def channels(self) -> int | None:
        """Channels that the attention compares, for a curve over embedding sizes."""
        return _channels(self.runs[0].config.get("attention"))


def _channels(attention: Any) -> int | None:
    if not isinstance(attention, Mapping) or not isinstance(attention.get("embedding"), Mapping):
        return None
    embedding = attention["embedding"]
    # What compares the features as they are has no setting for it: VGG19's relu3_1 has 256.
    channels = embedding.get("channels", 256)
    return channels if isinstance(channels, int) else None


def variants(runs: Sequence[Run]) -> tuple[list[Variant], list[str]]:
    """The variants in the order of their first runs, and the overrides that tell them apart."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        settings = {key: value for key, value in leaves(run.config) if not _SAME.match(key)}
        mark = json.dumps(settings, sort_keys=True, default=str) if settings else str(run.folder)
        groups.setdefault(mark, []).append(run)
    firsts = [members[0] for members in groups.values()]
    differing = _differing([_named(run.overrides) for run in firsts if run.config])
    grouped = []
    for members in groups.values():
        first = members[0]
        own = (
            {key: first.overrides.get(key, NOT_GIVEN) for key in differing} if first.config else {}
        )
        members = sorted(members, key=lambda run: (run.seed is None, run.seed))
        grouped.append(Variant(_label(first, own), members, own))
    _make_unique(grouped)
    return grouped, differing


def _named(overrides: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in overrides.items() if not _SAME.match(key)}


def _differing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if len({str(row.get(key)) for row in rows}) > 1]


def _label(run: Run, overrides: Mapping[str, str]) -> str:
    given = {key: value for key, value in overrides.items() if value != NOT_GIVEN}
    if given:  # the choice of a part speaks for itself; a setting needs its name
        parts = sorted(given, key=lambda key: "." in key)
        return ", ".join(
            given[key] if "." not in key else f"{key.rpartition('.')[2]}={given[key]}"
            for key in parts
        )
    if run.config:
        return run.folder.name
    file = run.folder  # a checkpoint whose run was not handed over is still that run's
    return file.parent.parent.name if file.parent.name == "checkpoints" else file.stem


def _outermost(keys: Sequence[str]) -> list[str]:
    """Without the settings of parts that are of different classes: the classes tell them apart."""
    parts = [key.removesuffix(_CLASS) for key in keys if key.endswith(_CLASS)]
    return [
        key
        for key in keys
        if not any(key.startswith(f"{part}.") and key != part + _CLASS for part in parts)
    ]


def _setting(key: str, value: Any) -> str:
    if key.endswith(_CLASS):
        key, value = key.removesuffix(_CLASS), str(value).rpartition(".")[2]
    return f"{key.rpartition('.')[2]}={value}"


def _make_unique(every: list[Variant]) -> None:
    """Where overrides leave two with one name, the settings that differ join it."""
    for label in {variant.label for variant in every}:
        alike = [variant for variant in every if variant.label == label]
        if len(alike) == 1:
            continue
        settings = [dict(leaves(variant.runs[0].config)) for variant in alike]
        keys = _outermost([key for key in _differing(settings) if not _SAME.match(key)])
        for place, (variant, own) in enumerate(zip(alike, settings), 1):
            texts = dict.fromkeys(_setting(key, own.get(key, NOT_GIVEN)) for key in keys)
            settings_text = [*texts][:_NAMED]
            variant.label = ", ".join(
                [label, *settings_text] if settings_text else [label, str(place)]
            )
    seen: dict[str, int] = {}
    for variant in every:
        seen[variant.label] = seen.get(variant.label, 0) + 1
        if seen[variant.label] > 1:
            variant.label += f" ({seen[variant.label]})"
