"""The dashboard's layout as code: a workspace of W&B with a panel for everything that runs log."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from restore.engine.run_logger import SHOWN
from restore.tools.report.runs import Run
from restore.utils import foreign
from restore.utils.nested import leaves

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


def workspace(runs: Sequence[Run], project: str, entity: str, name: str) -> "Workspace":
    """Sections on quality (beside the method without learning), training, cost, pictures, holes,
    score maps; curves by variant, its seeds as a band; only what some run has logged.

    Args:
        runs: of which it is made, and which it shows: those of their groups, where they have one.
        project: W&B's, as `entity`.
        name: of the saved view.
    """
    from wandb_workspaces import workspaces

    groups = sorted({g for run in runs if (g := run.config["wandb"]["group"])})
    chosen = workspaces.And(workspaces.Metric("Group").isin(groups)) if groups else ""
    sections = [
        workspaces.Section(name=title, panels=panels, is_open=not place)
        for place, (title, panels) in enumerate(_sections(runs))
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        runset_settings=workspaces.RunsetSettings(
            filters=chosen, groupby=[workspaces.Config("variant")]
        ),
    )


def _sections(runs: Sequence[Run]) -> Iterator[tuple[str, list[Any]]]:
    from wandb_workspaces.reports import v2

    def curve(*names: str) -> Any:
        return v2.LinePlot(
            title=names[0],
            x="step",
            y=list(names),
            groupby=v2.Config("variant"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )

    def bars(name: str) -> Any:
        return v2.BarPlot(
            title=name,
            metrics=[v2.SummaryMetric(name)],
            groupby=v2.Config("variant"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )

    def media(kind: str) -> list[Any]:
        names = list(dict.fromkeys(n for run in runs for n in _shown(run).get(kind, [])))
        return [v2.MediaBrowser(title=n, media_keys=[n], gallery_axis="step") for n in names]

    logged = list(dict.fromkeys(name for run in runs for name in run.history))
    valid = [name for name in logged if name.startswith("valid/")]
    measures = [name for name in valid if name.count("/") == 1]
    tables = dict.fromkeys(name for run in runs for name in _shown(run).get("tables", []))
    beside = {
        name: [other for other in valid if other.count("/") == 2 and _measure(other) == name]
        for name in measures
    }
    costs = dict.fromkeys(
        name
        for run in runs
        for name, value in leaves(run.summary.get("cost"), "cost")
        if isinstance(value, int | float)
    )
    speed = [name for name in logged if name.endswith("images_per_s")]
    every = {
        "Quality": [curve(name, *beside[name]) for name in measures],
        "Training": [curve(n) for n in logged if n.startswith("train/") and n not in speed],
        "Cost": [*map(curve, speed), *map(bars, costs)],
        "Pictures": [
            *(v2.WeavePanelSummaryTable(table_name=name) for name in tables),
            *media("sheets"),
        ],
        "Holes": media("holes"),
        "Score maps": media("scores"),
    }
    yield from ((title, panels) for title, panels in every.items() if panels)


def _measure(name: str) -> str:
    """A baseline's number as the network's: `valid/bicubic/psnr` → `valid/psnr`."""
    split, _, measure = name.split("/")
    return f"{split}/{measure}"


def _shown(run: Run) -> dict[str, list[str]]:
    path = run.folder / SHOWN
    return foreign.read_json(path) if path.exists() else {}  # the dashboard was off
