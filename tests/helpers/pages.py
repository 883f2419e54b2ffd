"""What stands in the README and the pages under `docs/`: commands, files, links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]

# `# needs Slurm` behind a command: what has to be there before it can run.
_NEEDS = re.compile(r"\s+#.*?\bneeds (?P<what>[^;]+)")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\s*$")
# The line before a block that holds a file: its name alone, and a colon.
_FILE = re.compile(r"^`(?P<name>[\w./-]+)`:$")
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<goal>[^)\s]+)\)")
_INLINE = re.compile(r"`(?P<text>[^`]+)`")


@dataclass(frozen=True)
class Command:
    """A command as a reader would type it; `needs` is None for one that runs as it stands."""

    page: str
    line: int
    text: str
    needs: str | None = None

    @property
    def words(self) -> list[str]:
        """As a shell takes it apart."""
        return shlex.split(self.text, comments=True)

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {self.text}"


@dataclass(frozen=True)
class Block:
    """A block of code: its language ('' where none is told), and the file it is, if it is one."""

    line: int
    language: str
    file: str | None
    lines: tuple[str, ...]


def name(page: Path) -> str:
    """A page's path from the top."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced or indented block, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    at, told = 0, ""
    while at < len(lines):
        line = lines[at]
        if fence := _FENCE.match(line):
            end = at + 1
            while lines[end].strip() != "```":
                end += 1
            cut = len(fence["indent"])
            file = _FILE.match(told)
            inside = tuple(text[cut:] for text in lines[at + 1 : end])
            yield Block(at + 2, fence["language"], file and file["name"], inside)
            at = end + 1
        elif line.startswith("    ") and not told:
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(at + 1, "", None, tuple(text[4:] for text in lines[at:end]))
            at = end
        else:
            # A file's name stands in a paragraph of its own; blank lines after it do not count.
            if line.strip():
                told = line.strip()
            elif not _FILE.match(told):
                told = ""
            at += 1
            continue
        told = ""


def commands(page: Path) -> Iterator[Command]:
    """Every line of the blocks that are commands, those that go on after a backslash as one."""
    for block in blocks(page):
        if block.language not in ("", "sh") or block.file:
            continue
        parts: list[str] = []
        for number, line in enumerate(block.lines, block.line):
            if not line.strip() or line.startswith("#"):
                continue
            parts.append(line.strip())
            if parts[-1].endswith("\\"):
                parts[-1] = parts[-1][:-1].strip()
                continue
            text = " ".join(parts)
            needs = _NEEDS.search(text)
            first = number - len(parts) + 1
            plain = re.sub(r"\s+#\s.*", "", text)
            yield Command(name(page), first, plain, needs and needs["what"].strip())
            parts = []
        assert not parts, f"{name(page)}:{block.line} ends in a backslash"


def mentioned(page: Path) -> Iterator[Command]:
    """Whole commands of ours within the text; one with an ellipsis is none, nor a mere name."""
    fenced = False
    text = []
    for line in page.read_text(encoding="utf-8").splitlines():
        fenced = fenced != bool(_FENCE.match(line))
        text.append("" if fenced or line.startswith("    ") else line)
    joined = "\n".join(text)
    for found in _INLINE.finditer(joined):
        whole = " ".join(found["text"].split())
        if whole.startswith(("restore ", "make ", "pip ")) and "…" not in whole:
            line = joined.count("\n", 0, found.start()) + 1
            if len(whole.split()) > 2 or not whole.startswith("restore "):
                yield Command(name(page), line, whole)


def files(page: Path) -> dict[str, str]:
    """The files that a page has its reader write, by their paths."""
    return {b.file: "\n".join(b.lines) + "\n" for b in blocks(page) if b.file}


def links(page: Path) -> Iterator[str]:
    """What the page links to, and shows."""
    for found in _LINK.finditer(page.read_text(encoding="utf-8")):
        yield found["goal"]


def paths(page: Path) -> Iterator[str]:
    """Files of the project that the text names."""
    for found in _INLINE.finditer(page.read_text(encoding="utf-8")):
        path = r"(?:restore|tasks|datasets|conf|tests|docs)/[\w./-]+\.(?:py|yaml|md|png|csv)"
        yield from re.findall(rf"(?<![\w./-]){path}", found["text"])


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
