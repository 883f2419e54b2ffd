"""`restore bench`: measurements of speed and memory, one file each."""

from pathlib import Path
from typing import Any

from restore import distributed, journal, registry, settings
from restore.config import check


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Runs the measurement that `what` names; its tables go to the screen and the folder."""
    setting = check(config, settings.Bench)
    device = distributed.device(setting.runtime)
    folder = Path(setting.folder)
    journal.make_folder(folder, config)
    journal.log_to(folder)
    registry.instantiate(setting.what, "what").run(folder, device)
    return 0
