"""The command line: `restore COMMAND [HYDRA OVERRIDES]`."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from restore.errors import RunFailure, UserError
from restore.utils.signals import INTERRUPTED, interrupting

COMMANDS = {
    "train": "train a model, or resume a run (resume=FOLDER)",
    "evaluate": "measure weights on a data set with a named protocol",
    "scales": "PSNR and SSIM of any-scale networks over the scale",
    "apply": "restore pictures",
    "compare": "compare the results of several methods with the targets",
    "report": "one page about runs and evaluations (DIR…), with tables for a paper",
    "dashboard": "save a W&B workspace with panels for runs (DIR…)",
    "export": "export a network or a data set for other programs",
    "prepare": "prepare raw data for training (resumes by itself)",
    "bench": "measure speed and memory",
    "sweep": "show the progress of a sweep (DIR, watch=true)",
    "list": "list all groups and their choices",
}

# Commands without a configuration, and the modules whose `show` they are.
_SHOWN = {"list": "commands.listing", "sweep": "tools.sweep.sweeps"}

# Commands that take words without a key, and the key of the list that these make.
_LISTED = {"report": "folders", "dashboard": "folders"}

# Hydra's options that a word of their own follows.
_VALUED = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--info", "-i")

USAGE = 2
FAILURE = 1


@dataclass
class Outcome:
    """The exit code of what ran under `reporting`."""

    code: int = 0


@contextmanager
def reporting(command: str) -> Iterator[Outcome]:
    """Turns a user's mistake into one sentence and exit code 2, Ctrl-C and SIGTERM into 130.

    RESTORE_TRACEBACK=1 shows where a mistake was noticed.
    """
    outcome = Outcome()
    try:
        with interrupting():
            yield outcome
    except UserError as error:
        _say(command, str(error))
        outcome.code = USAGE
    except RunFailure as error:
        _say(command, str(error))
        outcome.code = FAILURE
    except KeyboardInterrupt:
        _say(command, "interrupted")
        outcome.code = INTERRUPTED
    except BrokenPipeError:  # the reader of the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(command: str, sentence: str) -> None:
    if os.environ.get("RESTORE_TRACEBACK") == "1":
        traceback.print_exc()
    print(f"restore {command}: {sentence}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit code (0 done, 1 failed, 2 a mistake in what was asked)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        _say("", f"there is no command '{command}'; choose one of {', '.join(COMMANDS)}")
        return USAGE
    if command in _SHOWN:
        with reporting(command) as outcome:
            import_module(f"restore.{_SHOWN[command]}").show(rest)
        return outcome.code
    with reporting(command) as outcome:
        outcome.code = _hydra(command, _listed(command, rest))
    return outcome.code


def _help() -> str:
    lines = [f"  restore {name:<9} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: restore COMMAND [key=value …]",
            "",
            *lines,
            "",
            "`restore COMMAND --cfg job` prints the full configuration of a command,",
            "`restore train -m attention=a,b` trains one run for each choice.",
        ]
    )


def _hydra(command: str, overrides: list[str]) -> int:
    """Composes the command's configuration, once a job, and runs the job; returns its code."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from restore.commands import multirun
    from restore.config import MODULE, explain, opened, plain
    from restore.tools.sweep import sweeps

    run: Callable[[dict[str, Any], list[str]], int] = import_module(
        f"restore.commands.{command}"
    ).main
    codes: list[int] = []
    failed: list[Exception] = []
    begun: list[bool] = []

    def job(config: DictConfig) -> float | None:
        begun.append(True)
        about = HydraConfig.get()
        if sweep is not None:
            task = list(about.overrides.task)
            code = multirun.run(plain(config), task, sweep, about, main)
            if code == INTERRUPTED and os.getpid() == main:
                raise KeyboardInterrupt  # ends the sweep, which Hydra would go on with
            return multirun.best(plain(config), task, sweep)
        if about.mode == RunMode.MULTIRUN:
            config.folder = about.runtime.output_dir  # one folder a job, inside `folder`
        try:
            sweeps.refuse_alone(about.runtime.choices)
            codes.append(run(plain(config), list(about.overrides.task)))
        except (UserError, RunFailure) as error:
            # Kept from Hydra, which would print it in its own way and end a sweep's other jobs.
            failed.append(error)
            folder = about.runtime.output_dir
            with suppress(OSError):  # Hydra made the folder; if nothing came into it, it goes
                if not os.path.samefile(folder, os.curdir):
                    os.rmdir(folder)
        return None

    overrides = opened(command, [_literal(override) for override in overrides])
    main, sweep = os.getpid(), None
    if command == "train" and sweeps.several(overrides):
        sweep = sweeps.prepare(overrides)
        print(sweeps.announce(sweep), flush=True)
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    decorated = hydra.main(version_base="1.3", config_path=f"pkg://{MODULE}", config_name=command)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors itself and exits with 1
    try:
        for words in [overrides] if sweep is None else sweep.grids:
            sys.argv = [f"restore {command}", *words]
            decorated(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, command, overrides)) from error
    except OSError as error:
        if begun:
            raise
        raise UserError(f"cannot make the folder {error.filename}: {error.strerror}") from error
    except ValueError as error:  # Optuna's, when it looks for the best of none
        if sweep is None or not str(error).startswith("No trials are completed"):
            raise
    except SystemExit as error:  # argparse, over an option that Hydra does not know
        return error.code if isinstance(error.code, int) else USAGE
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before[1]
        if sweep is not None:
            told, some_failed = sweeps.conclude(sweep)
            print(told, flush=True)
            if sys.exc_info()[0] is KeyboardInterrupt:
                print("stopped; the same command goes on with it", flush=True)
            codes.append(FAILURE * some_failed)
    if failed:
        raise failed[0]
    return max(codes, default=0)


def _listed(command: str, words: list[str]) -> list[str]:
    """The words, those that are no override (or name a file all the same) gathered in a list."""
    if command not in _LISTED:
        return words
    bare: list[str] = []
    rest: list[str] = []
    for before, word in zip(["", *words], words):
        own = not word.startswith("-") and before not in _VALUED
        (bare if own and ("=" not in word or os.path.exists(word)) else rest).append(word)
    return [f"{_LISTED[command]}=[{','.join(map(_quoted, bare))}]", *rest] if bare else rest


def _literal(override: str) -> str:
    """The override with its value quoted where Hydra's grammar would not take it as it stands.

    So `input=photo (1).jpg` needs no second pair of quotes; nor does a file whose name Hydra would
    read as something else (`input=a,b.png`), when there is such a file; nor do the members of a
    list (`model=[attention=soft,backbone.blocks=[1,2]]`).
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, given, value = override.partition("=")
    if not given or override.startswith("-"):
        return override
    if not (os.path.exists(value) and re.search(r"[^\w./~+-]", value)):
        with suppress(HydraException):
            OverridesParser.create().parse_override(override)
            return override
    if value.startswith("[") and value.endswith("]") and not os.path.exists(value):
        return f"{key}=[{','.join(map(_quoted, _members(value[1:-1])))}]"
    return f"{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    if re.fullmatch(r"'.*'|\".*\"", value):
        return value
    return "'" + value.replace("'", r"\'") + "'"


def _members(listed: str) -> list[str]:
    """What stands between a list's commas, those within brackets of its own aside."""
    members, depth = [""], 0
    for letter in listed:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            members.append("")
        else:
            members[-1] += letter
    return [member.strip() for member in members]
