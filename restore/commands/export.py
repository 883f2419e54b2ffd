"""`restore export`: what other people's programs need, in their own formats."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restore.config import check, registry, settings
from restore.engine import run_folder
from restore.errors import UserError
from restore.tools.export import Format

log = logging.getLogger("restore")


@dataclass
class Export:
    """`restore export`; a format refers to the groups that it needs."""

    format: settings.Node
    folder: str
    weights: str | None = None
    model: list[str] | None = None
    data: settings.Node | None = None
    task: settings.Node | None = None
    degradation: settings.Node | None = None
    masks: settings.Node | None = None


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Writes an export into a folder of its own.

    Returns the exit code 0.
    """
    setting = check(config, Export)
    folder = Path(setting.folder)
    taken = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if taken and not run_folder.unfinished(folder):
        raise UserError(f"folder={folder} is there already; name another one, or remove it")
    run_folder.log_to(None)
    form: Format = registry.instantiate(setting.format, "format")
    with run_folder.filling(folder, config):
        try:
            lines = form.write(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # half of it would look like all of it
            raise
        run_folder.finish(folder)
    for line in lines:
        log.info(line)
    log.info("written to %s", folder)
    return 0
