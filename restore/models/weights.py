"""Weights from wherever they come: a run folder, one of our checkpoints, a published file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from restore.config import compose, locate, parts, plain, registry, renames
from restore.config.stored import stored
from restore.errors import UserError
from restore.models import bundled, checkpoint
from restore.models.fuse_batch_norm import fuse_batch_norm
from restore.models.protocol import Backbone, CannotTell, Recognised
from restore.types import Task
from restore.utils.foreign import at_home

_CONTRACT = f"{Backbone.__module__}.{Backbone.__name__}"


@dataclass(frozen=True)
class Loaded:
    """Weights, and the configuration that they were trained with or imply."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    path: Path
    fingerprint: str
    origin: str

    def backbone(self) -> Backbone:
        """The network for evaluation, on the CPU, its normalisation folded into the weights."""
        node = self.config["backbone"]
        model = checkpoint.build(
            lambda: registry.instantiate(without_downloads(node), "backbone"),
            self.state,
            str(self.path),
        )
        if not isinstance(model, Backbone):
            raise UserError(f"backbone._target_: {node['_target_']} is no {_CONTRACT}")
        fuse_batch_norm(model.eval())
        return model

    def generative(self) -> bool:
        """Whether the network draws its results by chance."""
        kind = locate(self.config["backbone"]["_target_"], "backbone")
        return issubclass(kind, Backbone) and kind.generative

    def sampled_by(self, sampler: dict[str, Any] | None) -> "Loaded":
        """The same weights, whose results another sampler draws (None: their own).

        Raises UserError for a network that draws none.
        """
        if sampler is None:
            return self
        backbone = self.config["backbone"]
        if not self.generative():
            raise UserError(f"sampler: {self.path} is of a network whose results are not drawn")
        return replace(self, config={**self.config, "backbone": {**backbone, "sampler": sampler}})

    def task(self, changes: Mapping[str, Any] | None = None) -> Task:
        """The task that the weights were trained for, its arguments changed as said.

        Raises UserError for an argument that the task does not take.
        """
        return registry.instantiate({**self.config["task"], **(changes or {})}, "task")

    def takes_scale(self) -> bool:
        """Whether the network enlarges by any scale that its task asks for."""
        kind = locate(self.config["backbone"]["_target_"], "backbone")
        return issubclass(kind, Backbone) and kind.takes_scale

    def sentence(self) -> str:
        """Where the weights come from, for the output."""
        return f"weights: {self.path} ({self.origin}, sha256 {self.fingerprint}…)"


def load(
    path: str | Path, model: Sequence[str] = (), pretrained: Mapping[str, Any] | None = None
) -> Loaded:
    """Reads weights.

    Args:
        path: the name of a bundled network, a run folder (its best checkpoint, else its last), a
            folder of `restore.models.bundled`, a checkpoint of ours, or a published file: a plain
            state dict, or one among a trainer's other things (Lightning, BasicSR, MMEditing and
            others), whose prefixes are taken off its names. Half precision becomes float32.
        model: configuration overrides for a published file, where its entries do not say all.
        pretrained: settings of `conf/pretrained`, for parts that a published file leaves to others.

    Raises:
        UserError: missing, damaged, or of no model that is known here.
    """
    path = bundled.named(path) or Path(at_home(path))
    if path.is_dir():
        packed = path / bundled.WEIGHTS
        path = packed if packed.is_file() else checkpoint.of_run(path)
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    mark = checkpoint.fingerprint(path)
    bundled.verify(path, mark)
    entries = checkpoint.read(path)
    if entries.get("format") == checkpoint.FORMAT:
        entries = checkpoint.own(entries, path)
        if model:
            raise UserError(
                f"model={[*model]} is for published files; {path} contains its own configuration"
            )
        state = entries["ema"] or entries["models"]["backbone"]
        config = stored(entries["config"], path)
        for name in ("backbone", "task", "protocol"):
            if not isinstance(config.get(name), dict) or "_target_" not in config[name]:
                raise UserError(f"{path} is a damaged checkpoint: config.{name} names no part")
        ships = path.is_relative_to(bundled.FOLDER)
        origin = f"{'ships with restore' if ships else 'trained here'}, step {entries['step']}"
        # What ships says nothing of how it was begun.
        for part, node in parts(config["backbone"]) if config.get("pretrained") else ():
            if node.get("weights") == "random":
                origin += f", {part} begun with RANDOM weights"
        return Loaded(config, state, path, mark, origin)
    published, beside = _unwrapped(entries, path)
    network = recognise(published, path)
    typed = {word.partition("=")[0] for word in model}
    implied = [word for word in network.overrides if word.partition("=")[0] not in typed]
    composed = compose("train", [*implied, *model])
    composed.pretrained.update(pretrained or {})
    config = plain(composed)
    state = dict(network.state)
    for part in network.parts:
        module = registry.instantiate(config["backbone"][part], f"backbone.{part}")
        state |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    origin = f"published {network.name} layout"
    if network.assumed:
        origin += f", {', '.join([*network.assumed, *model])}"
    if beside := [*beside, *network.beside]:
        origin += f", without what is not the model: {_some(beside)}"
    origin += "; whether and how it was trained the file does not say"
    return Loaded(config, state, path, mark, origin)


# Under which trainers keep the model among their other things; of several, the first. Averages
# come before what they are of.
_ENTRIES = (
    *("state_dict", "params_ema", "params", "model_state_dict", "ema", "generator_ema"),
    *("net_g_ema", "g_ema", "model", "net_g", "generator", "module"),
)
# What stands before the names of the model's own entries, beside which a file may hold critics and
# losses: always under the first, and under the others where it is a trainer's state.
_OF_A_GENERATOR = ("generator_ema.", "net_g_ema.", "generator.", "net_g.", "netG.")
_PREFIXES = ("module.", "model.", "_orig_mod.")


def _unwrapped(entries: dict[str, Any], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of a published file, its wrappings off, and the names of what lay beside.

    A Lightning checkpoint, say, holds the model under `model.`, and critics and losses next to it.
    """
    state, of_a_trainer = entries, False
    while inner := [state[name] for name in _ENTRIES if isinstance(state.get(name), dict)]:
        of_a_trainer |= state.get("state_dict") is inner[0]
        state = inner[0]
    # torch's AveragedModel counts its steps.
    beside = [name for name in state if name == "n_averaged"]
    state = {name: value for name, value in state.items() if name not in beside}
    if not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"{path} holds no state dict: its entries are {_some(entries)}")
    while prefix := _prefix(state, of_a_trainer):
        inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        beside += [name for name in state if not name.startswith(prefix)]
        state, of_a_trainer = inside, False
    return {k: x.float() if x.is_floating_point() else x for k, x in state.items()}, beside


def _prefix(state: dict[str, Tensor], of_a_trainer: bool) -> str | None:
    """What is to be taken off the names that have it; None when nothing is."""
    for prefix in (*_OF_A_GENERATOR, *_PREFIXES):
        having = sum(name.startswith(prefix) for name in state)
        some = prefix in _OF_A_GENERATOR or of_a_trainer
        if having and (some or having == len(state)):
            return prefix
    return None


def recognise(published: dict[str, Tensor], path: Path) -> Recognised:
    """Asks one backbone after another whether a published state dict is one of its own.

    A backbone that cannot be asked, as its yaml or its module is broken or a package lacks, keeps
    no other from answering; it is named where none knows the file.
    """
    silent: dict[str, str] = {}
    for name, kind in _kinds(silent):
        config = {"backbone": {"_target_": f"{kind.__module__}.{kind.__name__}"}}
        try:  # it may be one of ours with names of old
            network = kind.recognise(renames.tensors(config, published), path)
        except CannotTell as error:
            silent[name] = str(error)
            continue
        except UserError:
            raise
        except Exception as error:
            silent[name] = f"{type(error).__name__}: {error}"
            continue
        if network is not None:
            return replace(network, name=network.name or kind.__name__)
    reasons = "".join(f"; backbone={n} could not be asked ({why})" for n, why in silent.items())
    raise UserError(
        f"{path} holds the weights of no model known here (its entries are {_some(published)}); "
        f"known are {', '.join(registry.names('backbone'))}{reasons}"
    )


def _kinds(silent: dict[str, str]) -> Iterator[tuple[str, type[Backbone]]]:
    """The classes of all backbones, each once, by the name of one that has it.

    Why others cannot be had is noted in `silent`.
    """
    asked: set[str] = set()
    last: list[tuple[str, type[Backbone]]] = []
    for name in registry.names("backbone"):
        try:
            target = registry.target("backbone", name)
            if target is None or target in asked:
                continue
            asked.add(target)
            kind = locate(target, f"backbone={name}")
        except Exception as error:  # whatever a yaml or a module of somebody's does
            silent[name] = (str(error).splitlines() or [type(error).__name__])[0]
            continue
        if not (isinstance(kind, type) and issubclass(kind, Backbone)):
            silent[name] = f"{target} is no {_CONTRACT}"
        elif kind.asked_last:
            last.append((name, kind))
        else:
            yield name, kind
    yield from last


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
