"""The command line: `restore COMMAND [HYDRA OVERRIDES]`."""

import sys
from importlib import import_module

from restore.commands.outcome import reporting, say, speak_anyhow
from restore.errors import MISTAKE
from restore.version import __version__

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
_HELP = ("-h", "--help", "help")


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit code (0 done, 1 failed, 2 a mistake in what was asked)."""
    speak_anyhow()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--version"]:
        print(f"restore {__version__}")
        return 0
    if arguments[:1] == ["help"] and len(arguments) > 1:  # restore help train
        arguments = [arguments[1], "help"]
    if not arguments or arguments[0] in _HELP:
        print(_help())
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        say("", f"there is no command '{command}'; choose one of {', '.join(COMMANDS)}")
        return MISTAKE
    with reporting(command) as outcome:
        if any(word in _HELP for word in rest):
            from restore.commands import usage

            print(usage.text(command, COMMANDS[command]))
        elif command in _SHOWN:
            import_module(f"restore.{_SHOWN[command]}").show(rest)
        else:
            from restore.commands import composed

            outcome.code = composed.run(command, rest)
    return outcome.code


def _help() -> str:
    lines = [f"  restore {name:<9} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: restore COMMAND [key=value …]",
            "",
            *lines,
            "",
            "`restore COMMAND --help` tells a command's settings, with examples,",
            "`restore COMMAND --cfg job` prints its full configuration,",
            "`restore train -m attention=a,b` trains one run for each choice,",
            "`restore --version` prints the version.",
        ]
    )
