"""Weights from wherever they come: a run folder, one of our checkpoints, a published file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from restore.config import compose, locate, plain, registry, renames
from restore.errors import UserError
from restore.models import bundled, checkpoint
from restore.models.backbones import spandrel
from restore.models.fuse_batch_norm import fuse_batch_norm


@dataclass(frozen=True)
class Loaded:
    """Weights, and the configuration that they were trained with or imply."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    path: Path
    fingerprint: str
    origin: str

    def backbone(self) -> nn.Module:
        """The network for evaluation, on the CPU, its normalisation folded into the weights."""
        node = self.config["backbone"]
        model = registry.instantiate(without_downloads(node), "backbone")
        checkpoint.load_into(model, self.state, str(self.path))
        return fuse_batch_norm(model.eval())

    def task(self, changes: Mapping[str, Any] | None = None) -> Any:
        """The task that the weights were trained for, its arguments changed as said.

        Raises UserError for an argument that the task does not take.
        """
        return registry.instantiate({**self.config["task"], **(changes or {})}, "task")

    def takes_scale(self) -> bool:
        """Whether the network enlarges by any scale that its task asks for."""
        kind = locate(self.config["backbone"]["_target_"], "backbone")
        return getattr(kind, "takes_scale", False)

    def sentence(self) -> str:
        """Where the weights come from, for the output."""
        return f"weights: {self.path} ({self.origin}, sha256 {self.fingerprint}…)"


def load(path: str | Path, model: Sequence[str] = ()) -> Loaded:
    """Reads weights.

    Args:
        path: the name of a bundled network, a run folder (its best checkpoint, else its last), a
            folder of `restore.models.bundled`, a checkpoint of ours, or a published file: a plain
            state dict, or one under `state_dict` (Lightning, whose `model.` prefix is taken off),
            `params_ema` or `params` (BasicSR), `model_state_dict`, `model` or `generator`. Half
            precision becomes float32.
        model: configuration overrides for a published file, where its entries do not say all.

    Raises:
        UserError: missing, damaged, or of no model that is known here.
    """
    path = bundled.named(path) or Path(path).expanduser()
    if path.is_dir():
        found = [path / "checkpoints" / f"{name}.pt" for name in ("best", "last")]
        found.insert(0, path / bundled.WEIGHTS)
        path = next((file for file in found if file.is_file()), found[-1])
    held = checkpoint.read(path)
    mark = checkpoint.fingerprint(path)
    if held.get("format") == checkpoint.FORMAT:
        if model:
            raise UserError(
                f"model={[*model]} is for published files; {path} brings its configuration along"
            )
        state = held["ema"] or held["models"]["backbone"]
        config = renames.current(held["config"])
        extractor = config["pretrained"].get("vgg19")
        origin = f"trained here, step {held['step']}"
        if extractor == "random":
            origin += ", extractor begun with RANDOM weights"
        return Loaded(config, state, path, mark, origin)
    state, aside = _unwrapped(held, path)
    overrides, state, name = recognise(state, path)
    config = plain(compose("train", [*overrides, "pretrained.vgg19=random", *model]))
    origin = f"published {name} layout"
    # What a file does not say for certain.
    assumed = ("attention=", "backbone.residual_scale=", "backbone.mapping.pooling=")
    if chosen := [text for text in overrides if text.startswith(assumed)]:
        origin += f", {', '.join([*chosen, *model])}"
    if aside:
        origin += f", without what is not the model: {_some(aside)}"
    return Loaded(config, state, path, mark, origin)


def _unwrapped(held: dict[str, Any], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of a published file, its wrappings off, and the names of what lay beside.

    A Lightning checkpoint holds the model under `model.`, and critics and losses next to it.
    """
    wrapped = (held[name] for name in _WRAPPINGS if isinstance(held.get(name), dict))
    state = next(wrapped, held)
    fits = isinstance(state, dict) and state
    if not fits or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"{path} holds no state dict: its entries are {_some(held)}")
    aside: list[str] = []
    for prefix in ("module.", "model."):
        inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if inside and (len(inside) == len(state) or state is held.get("state_dict")):
            aside += [key for key in state if not key.startswith(prefix)]
            state = inside
    # TTSR's frozen copy of its extractor, for a loss.
    copies = [key for key in state if key.startswith("LTE_copy.")]
    single = {k: x.float() if x.is_floating_point() else x for k, x in state.items()}
    return {key: value for key, value in single.items() if key not in copies}, aside + copies


# Where trainers keep the model among their other things; of two, the first.
_WRAPPINGS = ("state_dict", "params_ema", "params", "model_state_dict", "model", "generator")


def recognise(state: dict[str, Tensor], path: Path) -> tuple[list[str], dict[str, Tensor], str]:
    """Asks every backbone whether a published state dict is one of its own, then spandrel.

    Returns configuration overrides, the weights under our names, and the class's name.
    """
    for kind in _kinds():
        if hasattr(kind, "recognise") and (found := kind.recognise(state)):
            return *found, kind.__name__
    if found := spandrel.recognise(path):
        return found
    raise UserError(
        f"{path} holds the weights of no model known here (its entries are {_some(state)}); "
        f"known are {', '.join(registry.names('backbone'))}, and what the package spandrel knows, "
        f"where it is installed ({spandrel.INSTALL})"
    )


@cache
def _kinds() -> list[Any]:
    """The classes of all backbones, each once."""
    targets = (
        compose("train", [f"backbone={name}"]).backbone._target_
        for name in registry.names("backbone")
    )
    return [locate(target, "backbone") for target in dict.fromkeys(targets)]


def _some(names: Any) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:3]) + (f", … ({len(listed)})" if len(listed) > 3 else "")


def without_downloads(node: Any) -> Any:
    """The node with every part's own weights left random: the file brings them all."""
    if isinstance(node, dict):
        return {
            key: "random" if key == "weights" else without_downloads(value)
            for key, value in node.items()
        }
    return node
