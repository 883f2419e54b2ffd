"""`restore evaluate`: weights on a data set by a named protocol, beside the baseline."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from restore import distributed, journal, registry, settings, weights
from restore.config import check
from restore.errors import UserError
from restore.evaluation import Report, Runner, evaluate
from restore.images import save_png
from restore.loading import EvalItems

log = logging.getLogger("restore")


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Checks everything, makes the folder, and evaluates on as many processes as asked for.

    Returns the exit code 0.
    """
    setting = check(config, settings.Evaluate)
    if distributed.joined():
        with distributed.group(setting.runtime):
            folder = Path(distributed.from_first(setting.folder))
            if distributed.rank() == 0:
                journal.make_folder(folder, config)
            return work(folder, config)
    distributed.device(setting.runtime)
    weights.load(setting.weights)
    folder = Path(setting.folder)
    journal.make_folder(folder, config)
    if setting.runtime.devices > 1:
        return distributed.launch("evaluate", folder, setting.runtime)
    return work(folder, config)


def work(folder: Path, config: dict[str, Any] | None = None) -> int:
    """Evaluates this process's share; the first process writes the results."""
    config = config or journal.read_config(folder)
    setting = check(config, settings.Evaluate)
    with distributed.group(setting.runtime) as device:
        journal.log_to(folder)
        loaded = weights.load(setting.weights)
        log.info(loaded.sentence())
        model = loaded.backbone().to(device)
        task = loaded.task()
        dataset = registry.instantiate(setting.data, "data")
        items = EvalItems(dataset.split(setting.split), task, setting.loader.on_error)
        protocol = registry.instantiate(setting.protocol, "protocol")
        perceptual = _Perceptual(setting)
        output = folder / "restored"
        if setting.save:
            output.mkdir(exist_ok=True)

        def each(key: str, restored: Tensor, target: Tensor | None) -> None:
            perceptual.update(key, restored, target)
            if setting.save:
                save_png(output / f"{Path(key).with_suffix('')}.png".replace("/", "_"), restored)

        report = evaluate(
            Runner(model, setting.runtime, device),
            task,
            items,
            protocol,
            setting.loader,
            limit=setting.limit,
            pictures=folder / "pictures",
            count=setting.pictures,
            each=each,
        )
        return 0
