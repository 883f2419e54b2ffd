"""`restore train`: a new run, or one that goes on."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_type_hints

import torch

from restore.config import check, locate, settings
from restore.engine import batch_size, launcher, run_folder, status
from restore.engine.training import Training
from restore.errors import MISTAKE, RunFailure, UserError
from restore.tools.sweep import sweeps
from restore.types import is_place
from restore.utils import distributed, files

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
    if isinstance(config.get("resume"), str):
        return _go_on(Path(config["resume"]), config, overrides)
    setting = check(config, settings.Train)
    folder = Path(setting.folder)
    tags = [*setting.wandb.tags, *sweeps.tags(overrides)]
    config = {**config, "wandb": {**config["wandb"], "tags": tags}}
    if launcher.joined() or setting.runtime.devices == 1:
        return work(folder, config, new=True)
    run_folder.refuse_taken(folder, config)
    # Whatever is not there or cannot be built is said here, once, not by every process.
    launcher.device(setting.runtime)
    tried = config
    if setting.trainer.batch_size == "auto":
        smallest = setting.runtime.devices * setting.trainer.accumulate_steps
        tried = batch_size.sized(config, smallest)
    Training(tried, check(tried, settings.Train), folder, torch.device("cpu"))
    with run_folder.undoing(folder) as undo:
        run_folder.make_folder(folder, config)
        code = launch(folder, setting.runtime)
        if code == MISTAKE:
            undo()
        return code


def _go_on(folder: Path, typed: dict[str, Any], overrides: list[str]) -> int:
    config = _renewed(run_folder.read_config(folder), typed, overrides)
    setting = check(config, settings.Train)
    if launcher.joined() or setting.runtime.devices == 1:
        return work(folder, config)
    files.write_text(folder / "config.yaml", files.to_yaml(config))
    return launch(folder, setting.runtime)


def launch(folder: Path, runtime: settings.Runtime) -> int:
    """Trains on a process for each device, by the folder's configuration; exit code as `main`."""
    try:
        return launcher.launch("train", folder, runtime)
    except RunFailure as error:
        # Not over the complaints of those that the process left behind.
        status.tell(folder, state=status.FAILED, reason=str(error), seconds_left=None)
        raise


def work(folder: Path, config: dict[str, Any] | None = None, new: bool = False) -> int:
    """Trains in this process, one of however many.

    Args:
        folder: the run folder.
        config: None: the folder's.
        new: whether the folder is still to be made; it is once everything is found to be there.

    Returns:
        Exit code, as `main`.
    """
    renewed = config is not None
    config = config or run_folder.read_config(folder)
    setting = check(config, settings.Train)
    with launcher.group(setting.runtime) as device, ExitStack() as stack:
        folder = Path(distributed.from_first(str(folder)))
        first = distributed.rank() == 0
        started_before = not new and (folder / "config.yaml").exists()
        if new:
            run_folder.refuse_taken(folder, config)
        if started_before and first:
            stack.enter_context(status.held(folder))
        run_folder.log_to(None)
        stack.enter_context(status.failing(folder))
        if setting.trainer.batch_size == "auto":

            def trying(size: int) -> None:
                if started_before and first:
                    status.tell(folder, state=status.SEARCHING, tried=size, reason=None)

            config = batch_size.found(config, setting, folder, device, trying)
            setting = check(config, settings.Train)
            if started_before and first:  # so that it is never looked for again
                files.write_text(folder / "config.yaml", files.to_yaml(config))
        training = Training(config, setting, folder, device)
        if started_before and first and renewed:
            files.write_text(folder / "config.yaml", files.to_yaml(config))
        if not started_before and first:
            stack.enter_context(run_folder.undoing(folder))
            run_folder.make_folder(folder, config)
            stack.enter_context(status.held(folder))
        distributed.gather(None)  # nobody goes on before the folder is there
        run_folder.log_to(folder)
        return training.run()


def _places(part: dict[str, Any]) -> list[str]:
    """The settings of a part of the data that name files or folders."""
    kind = locate(part["_target_"], "data") if "_target_" in part else None
    hints = get_type_hints(getattr(kind, "__init__", None) or (lambda: None), include_extras=True)
    return [name for name in part if is_place(hints.get(name)) or _is_path(part[name])]


def _is_path(value: Any) -> bool:
    """Whether a value can be nothing else, for data sets that do not say so."""
    several = value if isinstance(value, list) and value else [value]
    return all(isinstance(one, str) and "/" in one for one in several)


def _renewed(saved: dict[str, Any], typed: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The run's configuration with the renewable keys that were typed."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key == "resume":
            continue
        if not key.startswith((*_RENEWABLE, "data.")):
            raise UserError(
                f"{key} cannot be changed when a run is resumed; these can: "
                f"{', '.join(name.rstrip('.') for name in _RENEWABLE)}, and the paths of "
                "its data (data.…)"
            )
        target: Any = saved
        source: Any = typed
        *path, last = key.split(".")
        for step in path:
            target, source = target.get(step), source[step]
            if not isinstance(target, dict):
                raise UserError(f"{key}: the run has no {step}")
        places = _places(target) if key.startswith("data.") else [last]
        if last not in places:
            places = [".".join([*path, name]) for name in places]
            raise UserError(
                f"{key}: of the data only paths can be changed when a run is resumed; "
                f"this run has {', '.join(places) or 'no such setting'}"
            )
        target[last] = source[last]
    return saved
