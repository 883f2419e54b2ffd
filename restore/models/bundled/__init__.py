"""Networks that come with the package: a folder of `weights.pt` and `card.json` for each.

`restore export format=package` writes such a folder.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restore.errors import UserError
from restore.utils import foreign

WEIGHTS, CARD = "weights.pt", "card.json"
FOLDER = Path(__file__).parent
# What a network can be given beside the picture; a card that does not say so: it cannot.
_TAKES = ("takes_reference", "fills_holes")


@dataclass(frozen=True)
class BundledNetwork:
    """One of them; `scale` is None for a network of any scale."""

    name: str
    path: Path
    scale: int | None
    takes_reference: bool
    fills_holes: bool


def networks(folder: Path) -> list[BundledNetwork]:
    """All in a folder, by name.

    Raises UserError for a card that is damaged or whose weights are not beside it.
    """
    listed = []
    for card in sorted(folder.glob(f"*/{CARD}")):
        about = _read(card)
        path = card.with_name(WEIGHTS)
        if not path.is_file():
            raise UserError(f"{path} is missing although its card is there: install restore again")
        takes = (about.get(name, False) for name in _TAKES)
        listed.append(BundledNetwork(card.parent.name, path, about["scale"], *takes))
    return listed


def _read(card: Path) -> dict[str, Any]:
    values = foreign.read_json(card)
    with foreign.reading(card):
        scale, mark = values["scale"], values["sha256"]
        if (scale is not None and not isinstance(scale, int)) or not isinstance(mark, str):
            raise ValueError("scale or sha256 is of another kind")
        if wrong := [name for name in _TAKES if not isinstance(values.get(name, False), bool)]:
            raise ValueError(f"{wrong[0]} is of another kind")
    return values


def verify(path: Path, fingerprint: str) -> None:
    """Holds weights against the card beside them, where there is one.

    Args:
        path: the file of weights.
        fingerprint: the first hex digits of its SHA-256.

    Raises:
        UserError: they are not those that the card was written for.
    """
    card = path.with_name(CARD)
    if path.name == WEIGHTS and card.exists() and not _read(card)["sha256"].startswith(fingerprint):
        raise UserError(
            f"{path} is damaged, or belongs to another network than its card says: "
            f"its SHA-256 begins with {fingerprint}; install or export it again"
        )


def named(name: str | Path) -> Path | None:
    """The folder of the bundled network of a name; None where the name is none of theirs.

    A file or folder of such a name is reached as ./wdsr_b_x4.
    """
    return FOLDER / name if str(name) in {n.name for n in networks(FOLDER)} else None


def choose(
    scale: float | None,
    folder: Path | None = None,
    takes_reference: bool = False,
    fills_holes: bool = False,
) -> Path:
    """The weights for a scale: those of a network of that scale alone, else of one of any scale.

    Args:
        scale: enlargement of each side; None: 1 where holes are to be filled.
        folder: where to look; None: the package's.
        takes_reference: whether a reference is to be given. A network that fills holes is also
            taken without one.
        fills_holes: whether a mask is to be given.

    Raises:
        UserError: no scale, or nothing for it.
    """
    place = folder or FOLDER
    if folder is not None and not folder.is_dir():
        raise UserError(f"networks={folder}: there is no such folder")
    if scale is None and fills_holes:
        scale = 1
    if scale is None:
        raise UserError("without weights=… the network is chosen by the scale: give scale=…")
    known = networks(place)
    for with_reference in (takes_reference, takes_reference or fills_holes):
        for wanted in (scale, None):
            for network in known:
                if (network.scale, network.takes_reference) == (wanted, with_reference) and (
                    network.fills_holes or not fills_holes
                ):
                    return network.path
    listed = ", ".join(f"{n.name} ({_about(n)})" for n in known) or "none"
    takes = ["takes a reference"] * takes_reference + ["fills holes"] * fills_holes
    what = " ".join(["network", *(["that", " and ".join(takes)] if takes else [])])
    raise UserError(
        f"scale={scale:g}: no {what} for it comes with this installation (in {place}: {listed}); "
        "give weights=…"
    )


def _about(network: BundledNetwork) -> str:
    reference = " with a reference" if network.takes_reference else ""
    return f"×{network.scale or 'any'}{reference}{', fills holes' if network.fills_holes else ''}"
