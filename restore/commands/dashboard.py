"""`restore dashboard DIR…`: saves a workspace that is laid out for these runs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from restore.config import check
from restore.engine import run_folder
from restore.errors import UserError
from restore.tools.report.layout import workspace
from restore.tools.report.runs import find

log = logging.getLogger("restore")


@dataclass
class Dashboard:
    """`restore dashboard`."""

    folders: Annotated[list[str], Field(min_length=1)]
    project: str | None
    entity: str | None
    name: str
    folder: str


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Makes the layout of what the runs logged, and saves it on the server; returns 0.

    Raises UserError without the library, without a server or key, without runs, and for runs
    of several projects.
    """
    setting = check(config, Dashboard)
    run_folder.log_to(None)
    runs = [run for run in find(setting.folders).runs if run.config]
    if not runs:
        raise UserError(
            "folders: there is no run of restore train; the layout is made from "
            "what runs have logged"
        )
    projects = {run.config["wandb"]["project"] for run in runs}
    if setting.project is None and len(projects) != 1:
        raise UserError(f"project: the runs have {', '.join(sorted(projects)) or 'none'}; name one")
    try:
        import wandb
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise UserError(
            "the layout needs wandb-workspaces: pip install 'restore[dashboard]'"
        ) from error
    entity = setting.entity or runs[0].config["wandb"]["entity"]
    with _talking():
        entity = entity or wandb.Api().default_entity or ""
    view = workspace(runs, setting.project or projects.pop(), entity, setting.name)
    with _talking():
        view.save()
    panels = sum(len(section.panels) for section in view.sections)
    log.info("%s: %d panels for %d runs", view.url, panels, len(runs))
    return 0


@contextmanager
def _talking() -> Iterator[None]:
    """What goes wrong with the server meanwhile is said in one sentence.

    Its library raises errors of many unrelated classes: no key, a refused one, no server.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the layout cannot be saved at W&B: {reason}") from error
