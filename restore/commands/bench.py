"""`restore bench`: a measurement of speed and memory."""

from pathlib import Path
from typing import Any

from restore.config import check, registry, settings
from restore.engine import launcher, run_folder


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Runs the measurement that `benchmark` names; its tables go to the screen and the folder."""
    setting = check(config, settings.Bench)
    device = launcher.device(setting.runtime)
    folder = Path(setting.folder)
    benchmark = registry.instantiate(setting.benchmark, "benchmark")
    with run_folder.filling(folder, config):
        run_folder.log_to(folder)
        benchmark.run(folder, device)
        run_folder.finish(folder)
    return 0
