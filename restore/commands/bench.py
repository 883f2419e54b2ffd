"""`restore bench`: a measurement of speed and memory."""

from pathlib import Path
from typing import Any

from restore import registry, settings
from restore.config import check
from restore.runs import distributed, journal


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Runs the measurement that `what` names; its tables go to the screen and the folder."""
    setting = check(config, settings.Bench)
    device = distributed.device(setting.runtime)
    folder = Path(setting.folder)
    journal.make_folder(folder, config)
    journal.log_to(folder)
    registry.instantiate(setting.what, "what").run(folder, device)
    return 0
