"""`restore train`: a new run, or one that goes on."""

import logging
from pathlib import Path
from typing import Any

from restore import distributed, journal, settings
from restore.config import check
from restore.errors import UserError
from restore.training import Training

log = logging.getLogger("restore")

# What a run may be given anew when it goes on; anything else would make it another run.
_RENEWABLE = ("runtime.", "loader.", "wandb.", "trainer.log_every", "trainer.pictures")


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Checks, makes or finds the run folder, and trains on as many processes as asked for.

    Args:
        config: resolved configuration.
        overrides: what was typed, `key=value` each; with `resume` only these count, on top of the
            run's own configuration.

    Returns:
        Exit code: 0, or 130 when interrupted (and saved).
    """
    setting = check(config, settings.Train)
    if setting.resume is not None:
        folder = Path(setting.resume)
        config = _renewed(journal.read_config(folder), config, overrides)
        setting = check(config, settings.Train)
    elif distributed.joined():
        with distributed.group(setting.runtime):
            folder = Path(distributed.from_first(setting.folder))
            if distributed.rank() == 0:
                journal.make_folder(folder, config)
            return work(folder, config)
    else:
        distributed.device(setting.runtime)
        folder = Path(setting.folder)
        journal.make_folder(folder, config)
    if setting.runtime.devices > 1 and not distributed.joined():
        journal.write_text(folder / "config.yaml", journal.to_yaml(config))
        return distributed.launch("train", folder, setting.runtime)
    return work(folder, config)


def work(folder: Path, config: dict[str, Any] | None = None) -> int:
    """Trains in this process, one of however many; what `restore.worker` calls."""
    config = config or journal.read_config(folder)
    setting = check(config, settings.Train)
    with distributed.group(setting.runtime) as device:
        journal.log_to(folder)
        return Training(config, setting, folder, device).run()


def _renewed(saved: dict[str, Any], typed: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The run's configuration with the renewable keys that were typed."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key == "resume":
            continue
        if not key.startswith(_RENEWABLE):
            raise UserError(
                f"{key} cannot change when a run goes on, or it would be another run; "
                f"what can: {', '.join(name.rstrip('.') for name in _RENEWABLE)}"
            )
        target, source = saved, typed
        *path, last = key.split(".")
        for step in path:
            target, source = target[step], source[step]
        target[last] = source[last]
    return saved
