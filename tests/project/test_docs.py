"""Every command of the README and of the pages: run in small, or composed and checked.

`make test` runs the first training, evaluation, … of the pages for newcomers and of the others, and
composes the rest against the settings; `make test-all` runs all that need nothing that is not here.

A word in capitals in a command stands for what a reader fills in; here `tests.helpers.stand_ins`
does.
"""

import json
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from restore.cli import COMMANDS, main
from restore.commands.apply import Apply
from restore.commands.dashboard import Dashboard
from restore.commands.export import Export
from restore.commands.prepare import Prepare
from restore.commands.report import ReportSettings
from restore.commands.scales import Scales
from restore.commands.words import literal
from restore.config import check, compose, plain, settings
from restore.tools.compare.job import Compare
from restore.tools.sweep import sweeps
from tests.helpers import pages
from tests.helpers.pages import PAGES, ROOT, Command
from tests.helpers.pictures import photo, write
from tests.helpers.stand_ins import MORE, StandIns, smaller

NEWCOMERS = ("README.md", "docs/quickstart.md")
# What a command may say that it needs.
NEEDS = ("Slurm", "CUDA", "the network", "Palette", "SR-RAW", "hours", "Optuna")
NEEDS += ("several machines", "photos of places", "VGG19's weights", "minutes on a CPU")
SETTINGS: dict[str, type[Any]] = {
    "train": settings.Train,
    "evaluate": settings.Evaluate,
    "bench": settings.Bench,
    "apply": Apply,
    "compare": Compare,
    "report": ReportSettings,
    "export": Export,
    "prepare": Prepare,
    "dashboard": Dashboard,
    "scales": Scales,
}
# Other programs, of which no more can be said than that the page names them.
OTHERS = ("cp", "rm", "sbatch", "wandb")


def once_a_page(found: Iterator[Command]) -> list[Command]:
    return list({(command.page, command.text): command for command in found}.values())


BLOCKS = once_a_page(command for page in PAGES for command in pages.commands(page))
MENTIONED = once_a_page(command for page in PAGES for command in pages.mentioned(page))
# What is not run here: the Makefile's commands are those of the pages, and the measurements are run
# in small by tests/tools/test_bench.py and tests/tools/test_prepare_sr_raw.py.
MEASURED = ("matching", "forward", "train_step", "backbone", "data", "diffusion", "family")
ELSEWHERE = ("make", "pip", "pytest", *(f"restore bench benchmark={name}" for name in MEASURED))
RUN = [c for c in BLOCKS if c.needs is None and not c.text.startswith(ELSEWHERE)]


def once(found: list[Command]) -> list[Command]:
    """What two pages have alike once, unless RUN is another network on each."""
    return list({(c.text, c.page if "RUN" in c.text else ""): c for c in found}.values())


RUN = once(RUN)


def first_of_a_kind(commands: list[Command]) -> list[Command]:
    """The first command that trains, the first that evaluates, and so on.

    They are those of each page that a newcomer types from, and those of all others together.
    """
    kinds: dict[tuple[str, str], Command] = {}
    for command in commands:
        found, page = ours(command.words), command.page if command.page in NEWCOMERS else ""
        kinds.setdefault((page, found[0] if found else command.text), command)
    return list(kinds.values())


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("stand_ins"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to stand in, whose Python files can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:  # another page may have a file of the same name
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """Our command and its arguments, whatever starts it; None for another program."""
    joined = " ".join(words)
    start = re.match(
        r"(?:[A-Z0-9_]+=\S+ )*(?:restore|python -m restore|torchrun .*?-m restore"
        r"|srun (?:-\S+ )*(?:restore|python -m restore)) (?=\w)",
        joined,
    )
    if start is None:
        return None
    command, *arguments = words[len(start[0].split()) :]
    return command, arguments


# Run by `make test`; the others of RUN are held against their settings there, and run by
# `make test-all`.
# What takes long and runs in other tests too: several processes, named sweeps, measurements, and
# the slower exporters.
LONG = re.compile(r"torchrun|devices=2|-m .*sweep=|restore bench|format=(onnx|torch_export)")
FIRST = first_of_a_kind([c for c in RUN if not LONG.search(c.text)])
# What runs whole needs no look at its settings first; of a sweep only one job is run.
COMPOSED = [c for c in once([*BLOCKS, *MENTIONED]) if c not in FIRST or "-m" in c.words]


def own_folder(arguments: list[str]) -> list[str]:
    """The arguments with `--config-dir DIR` as an override, which can be composed without Hydra."""
    if "--config-dir" not in arguments:
        return arguments
    at = arguments.index("--config-dir")
    folder = Path(arguments[at + 1]).resolve()
    assert folder.is_dir(), folder
    return [*arguments[:at], f"hydra.searchpath=[file://{folder}]", *arguments[at + 2 :]]


def jobs(arguments: list[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, its folders made."""
    sweep = sweeps.prepare(arguments)
    if sweep.jobs is None:  # a sweeper that draws the values: without them
        parsed = OverridesParser.create().parse_overrides([a for a in arguments if a != "-m"])
        own = [o for o in parsed if not str(o.key_or_group).startswith(("hydra.", "hydra/"))]
        return [[o.input_line or "" for o in own if not o.is_sweep_override()]]
    texts = [(job / "job.json").read_text(encoding="utf-8") for job in sweep.jobs]
    return [json.loads(text)["overrides"] for text in texts]


# What a command names


@pytest.mark.parametrize(
    "command",
    # A sweep composes each of its jobs. Of the others every second one each time.
    [
        pytest.param(
            c,
            marks=()
            if c.page in NEWCOMERS or (number % 2 and "-m" not in c.words)
            else pytest.mark.slow,
        )
        for number, c in enumerate(COMPOSED)
    ],
    ids=str,
)
def test_all_that_a_command_names_is_there(command: Command, place: Path):
    assert "…" not in re.sub("'[^']*'", "", command.text), "nobody can type this"
    if command.needs is not None:
        assert command.needs.startswith(NEEDS), f"{command.needs!r} is none of {NEEDS}"
    written(command)
    words = command.words
    if (found := ours(words)) is not None:
        composed(*found)
    elif words[0] == "make":
        makes(words[1])
    elif words[:2] == ["pip", "install"]:
        installs(words[2:])
    elif words[0] in ("pytest", "python"):
        there = [word for word in words[1:] if "/" in word or word.endswith(".py")]
        assert command.needs or (there and all(exists(word) for word in there))
    else:
        assert words[0] in OTHERS, f"{words[0]}: a command that this test does not know"


def exists(path: str) -> bool:
    return Path(path).exists() or (ROOT / path).exists()


def written(command: Command) -> None:
    """Lays the page's own files where its reader has them."""
    for path, text in pages.files(ROOT / command.page).items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")


def composed(command: str, arguments: list[str]) -> None:
    """Holds a command against its settings, of a sweep those of each job that has a new value."""
    assert command in COMMANDS
    if command == "list":
        assert main(["list", *arguments]) == 0
    elif command == "sweep":
        assert set(arguments[1:]) <= {"watch=true", "watch=false"}
    elif "--cfg" in arguments:
        assert main([command, *arguments]) == 0
    elif "-m" in arguments and command != "train":
        parsed = OverridesParser.create().parse_overrides([a for a in arguments if a != "-m"])
        first = [
            f"{o.key_or_group}={next(o.sweep_string_iterator())}"
            if o.is_sweep_override()
            else literal(o.input_line or "")
            for o in parsed
        ]
        check(plain(compose(command, first)), SETTINGS[command])
    elif "-m" in arguments:
        seen: set[str] = set()
        for job in jobs(arguments):
            if not seen.issuperset(job):
                check(plain(compose(command, job)), SETTINGS[command])
            seen |= set(job)
    else:
        typed = [literal(word) for word in own_folder(arguments)]
        bare = [word for word in typed if "=" not in word]
        assert command in ("report", "dashboard") or not bare, bare
        listed = [f"folders=[{','.join(bare)}]"] if bare else []
        config = compose(command, [*listed, *(word for word in typed if "=" in word)])
        check(plain(config), SETTINGS[command])


def makes(target: str) -> None:
    """A target of the Makefile, and the commands of ours in it."""
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.replace("\\\n", " ").splitlines():
        if found := re.match(r"\S*bin/restore (\w+) (.*)", line):
            composed(found[1], found[2].split())


def installs(words: list[str]) -> None:
    """This package, and extras that it has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words:
        found = re.fullmatch(r"-e|--editable|(?:restore|\.)(?:\[([\w,]+)\])?", word)
        assert found, word
        assert set((found[1] or "").split(",")) - {""} <= set(project["optional-dependencies"])


# What a command does


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=pytest.mark.slow if c not in FIRST else ()) for c in RUN],
    ids=str,
)
def test_it_runs(command: Command, place: Path, stand_ins: StandIns):
    written(command)
    perform(command, stand_ins)


def perform(command: Command, stand_ins: StandIns) -> None:
    """Runs a command, and first those of its page whose results it names."""
    words, found = command.words, ours(command.words)
    if found is not None:
        name, arguments = found
        if "-m" in arguments:  # its first job alone; one of a named sweep still as a sweep
            first = jobs(arguments)[0]
            into = [f"{a}/one" for a in arguments if a.startswith("folder=")]
            named_sweep = any(a.startswith("sweep=") for a in first)
            arguments = ["-m", *first] if named_sweep else [*first, *into]
        arguments = [*arguments, *added(name, own_folder(arguments))]
        stand_ins.place(command.page, " ".join(arguments), Path.cwd())
    for earlier in BLOCKS:
        if earlier.page == command.page and earlier.line < command.line and earlier.needs is None:
            if earlier.words[0] == "rm" and all(map(exists, earlier.words[2:])):
                other(earlier.words)
            for made in results(earlier):
                if named(made, command) and not stand_ins.again(command.page, made):
                    perform(earlier, stand_ins)
    if found is None:
        stand_ins.place(command.page, command.text, Path.cwd())
        other(words)
    elif words[0] == "torchrun":
        start = words[1 : words.index("restore") + 2]
        program = Path(sys.executable).with_name("torchrun")
        subprocess.run([str(program), *start, *arguments], check=True)
    else:
        assert main([name, *arguments]) == 0
    for made in results(command):
        stand_ins.keep(command.page, made)


def results(command: Command) -> list[str]:
    """Files and folders that a command says it makes."""
    return re.findall(r"\b(?:folder|output)=(\S+)", command.text)


def named(path: str, command: Command) -> bool:
    """Whether a command works on a path, or on a folder that it lies in."""
    text = re.sub(r"\b(?:folder|output)=\S+", "", command.text)
    places = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    return any(re.search(rf"(?<![\w./-]){re.escape(p)}(?![\w./-])", text) for p in places)


def added(command: str, arguments: list[str]) -> list[str]:
    """What is added to a command, for it to take a moment."""
    if "--cfg" in arguments:
        return []
    if command == "train":
        return smaller(arguments)
    chosen = ("weights=", "networks=", "reference=")
    if command == "apply" and not any(a.startswith(chosen) for a in arguments):
        return [*MORE["apply"], "networks=NETWORKS"]
    return MORE.get(command, [])


def other(words: list[str]) -> None:
    """A Python file of the page's or of the project's, or a program of the shell's."""
    if words[0] != "python":
        subprocess.run(words, check=True)
        return
    before, sys.argv = sys.argv, words[1:]
    try:
        script = Path(words[1]) if Path(words[1]).exists() else ROOT / words[1]
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before


# What a page says is said

SAID = [
    ("data.targets=PHOTOS data.references=ONE", " pictures, such as 0"),
    ("data.targets=ONE", "pictures of data.targets falls into the split 'valid'"),
    ("data.targets=PHOTOS", " has no reference picture; this task needs one"),
    ("data.targets=PHOTOS data.lows=ONE backbone=edsr", ") divided by the scale 4"),
]


@pytest.mark.parametrize(("line", "said"), SAID)
def test_mistakes_are_told_as_the_page_has_it(
    line: str, said: str, place: Path, stand_ins: StandIns, capfd: pytest.CaptureFixture[str]
):
    assert said in (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    stand_ins.place("", line, place)
    for number, path in enumerate(sorted(Path("PHOTOS").glob("*"))[: 1 if "refer" in line else 9]):
        write(place / "ONE" / path.name, photo("coffee", 40 - number, 48))
    if "PHOTOS" not in line:
        write(place / "ONE" / "0.png", photo("coffee", 40, 48))
    arguments = ["data=folder", *line.split()]
    assert main(["train", *arguments, *smaller(arguments)]) == 2
    assert said in capfd.readouterr().err


# What the pages name


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_what_it_links_to_is_there(page: Path):
    for goal in pages.links(page):
        if re.match(r"https?:", goal):
            continue
        path, _, anchor = goal.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), goal
        if anchor:
            assert anchor in pages.headings(target), goal


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_files_of_the_project_that_it_names_are_there(page: Path):
    own = pages.files(page)
    assert [path for path in pages.paths(page) if not exists(path) and path not in own] == []


def test_the_page_of_settings_is_what_the_configuration_says():
    script = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == script["page"](), "conf/ has changed: run `make docs`"


@pytest.mark.parametrize("command", SETTINGS)
def test_every_setting_stands_on_the_page_of_settings(command: str):
    """Held against what Hydra composes, which the page is not made from."""
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))
    lacking = [
        key for key in keys(OmegaConf.to_container(compose(command, []))) if not ends(key, listed)
    ]
    assert lacking == []


def keys(node: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of all settings in a tree."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from keys(value, f"{prefix}{key}.")
        elif key not in ("_target_", "_partial_"):
            yield f"{prefix}{key}"


def ends(key: str, listed: set[str]) -> bool:
    """Whether a key stands on the page whole, without its group, or in a value like {psnr: 2}."""
    parts = key.split(".")
    return any(
        ".".join(parts[at:end]) in listed
        for end in (len(parts), len(parts) - 1)
        for at in range(end)
    )


def test_the_readme_leads_to_every_page():
    linked = {(ROOT / goal).resolve() for goal in pages.links(ROOT / "README.md")}
    assert [pages.name(page) for page in PAGES[1:] if page not in linked] == []


def test_a_code_block_says_what_it_is():
    """Else its lines are commands; so none can hide from these tests."""
    known = {"", "sh", "text", "yaml", "python"}
    languages = {block.language for page in PAGES for block in pages.blocks(page)}
    assert languages <= known
    assert len(RUN) > 40
