"""`restore compare`: results of any methods against one or two truths, in tables and pictures."""

from pathlib import Path
from typing import Any

import torch

from restore.config import check
from restore.engine import launcher, run_folder
from restore.tools.compare import report
from restore.tools.compare.job import Compare, CompareJob
from restore.tools.compare.measuring import measure


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Checks everything, measures, and writes tables, sheets and the page into the folder.

    Returns the exit code 0; what could not be compared is listed.
    """
    setting = check(config, Compare)
    folder = Path(setting.folder)
    run_folder.refuse_taken(folder, config)
    run_folder.log_to(None)
    device = launcher.device(setting.runtime)
    launcher.refuse_compile(setting.runtime)
    if setting.runtime.threads:
        torch.set_num_threads(setting.runtime.threads)
    job = CompareJob(setting, device)
    results = measure(job.pictures, job.keys, job.metrics, device)
    with run_folder.filling(folder, config):
        run_folder.log_to(folder)
        report.write(folder, job, results)
        run_folder.finish(folder)
    return 0
