"""`restore compare`: results of any methods against one or two truths, in tables and pictures."""

from pathlib import Path
from typing import Any

import torch

from restore.comparison import report
from restore.comparison.distances import Distances
from restore.comparison.job import Compare, Job
from restore.comparison.measuring import measure
from restore.config import check
from restore.runs import distributed, journal


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Checks everything, measures, and writes tables, sheets and the page into the folder.

    Returns the exit code 0; what could not be compared is listed.
    """
    setting = check(config, Compare)
    folder = Path(setting.folder)
    journal.refuse_taken(folder)
    journal.log_to(None)
    device = distributed.device(setting.runtime)
    if setting.runtime.threads:
        torch.set_num_threads(setting.runtime.threads)
    job = Job(setting, device)
    distances = Distances(job.measures["fid"], device) if "fid" in job.measures else None
    lpips = job.measures["lpips"].to(device) if "lpips" in job.measures else None
    found = measure(job.pictures, job.keys, job.protocol, lpips, distances, device)
    journal.make_folder(folder, config)
    journal.log_to(folder)
    report.write(folder, job, found, distances)
    return 0
