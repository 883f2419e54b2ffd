"""Names that have changed, so that runs and checkpoints stored under the old ones go on working."""

import re
from collections.abc import Mapping
from typing import Any

_EXTRACTORS = "restore.models.extractors"
# Modules (and classes) by their old name; what lay in a package moved with it unless it stands here
# itself.
_MODULES = {
    "restore.pictures.images": "restore.images.io",
    "restore.bicubic": "restore.images.bicubic",
    "restore.pictures.mapped": "restore.images.memory_mapped",
    "restore.pictures": "restore.images",
    "restore.degradation": "restore.data.degradation",
    "restore.noise": "restore.data.noise",
    "restore.noisy": "restore.data.noisy",
    "restore.zoom": "restore.data.zoom",
    "restore.attention.matching": "restore.models.attention.rules",
    "restore.attention": "restore.models.attention",
    "restore.backbones.mapping": "restore.models.backbones.feature_mapping",
    "restore.backbones.extractor.TextureExtractor": f"{_EXTRACTORS}.vgg19.VGG19Extractor",
    "restore.models.backbones.extractor.TextureExtractor": f"{_EXTRACTORS}.vgg19.VGG19Extractor",
    "restore.backbones": "restore.models.backbones",
    "restore.discriminators": "restore.models.discriminators",
    "restore.inpainting": "restore.inference.inpainting",
    "restore.bench": "restore.tools.bench",
    "restore.comparison": "restore.tools.compare",
    "restore.exports": "restore.tools.export",
    "restore.preparation.mapping": "restore.tools.prepare.warp",
    "restore.preparation": "restore.tools.prepare",
}

# Classes by their old name, in modules that stayed.
_CLASSES = {
    "restore.metrics.protocol.Protocol": "restore.metrics.protocol.MeasurementProtocol",
}

# Settings of a run by their old name, where they stand.
_TRAINER = {
    "accumulate": "accumulate_steps",
    "largest_batch": "max_batch_size",
    "memory_share": "memory_fraction",
    "rate_rule": "lr_scaling",
    "base_batch": "base_batch_size",
}
_OBJECTIVE = {
    "decay": "lr_schedule",
    "groups": "param_groups",
    "clip": "clip_grad_norm",
    "repeat": "steps_per_iteration",
}
_MATCHING = f"{_EXTRACTORS}.matching.MatchingExtractor"
_CONTRASTIVE = f"{_EXTRACTORS}.contrastive.ContrastiveExtractor"
# Networks whose convolutions that enlarge had no name of their own.
_ENLARGING = (
    "restore.models.backbones.c2_matching.C2Matching",
    "restore.models.backbones.datsr.DATSR",
)
_LR_SCHEDULE = {"warmup": "warmup_steps", "shape": "name", "every": "step_size"}


def current(config: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration under today's names; nothing else in it is changed."""
    config = _targets(config)
    if isinstance(config.get("trainer"), dict):
        config["trainer"] = _renamed(config["trainer"], _TRAINER)
    stages = config.get("stages")
    for stage in stages.values() if isinstance(stages, dict) else ():
        objectives = stage.get("objectives") if isinstance(stage, dict) else None
        if isinstance(stage, dict) and isinstance(objectives, dict):
            stage["objectives"] = {name: _objective(node) for name, node in objectives.items()}
    return config


def tensors(config: Mapping[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """A stored backbone's entries under today's names.

    Args:
        config: the configuration stored beside them, as it was.
        state: names and tensors.
    """
    backbone = config.get("backbone")
    if not isinstance(backbone, dict):
        return state
    if backbone.get("_target_") in _ENLARGING:
        state = {re.sub(r"^(enlarge\.\d)\.(\w+)$", r"\1.conv.\2", k): x for k, x in state.items()}
    extractor = backbone.get("extractor")
    if not isinstance(extractor, dict) or not _of_old(extractor):
        return state
    before = "extractor."
    renamed = {}
    for name, value in state.items():
        part, _, rest = name.removeprefix(before).partition(".")
        if name.startswith(before) and part == "network":
            name = f"{before}matching.{rest}"
        elif name.startswith(before) and part.startswith("at_"):
            name = f"{before}textures.{part}.{rest}"
        renamed[name] = value
    return renamed


def _of_old(node: dict[str, Any]) -> bool:
    """Whether it is the extractor from before what matches and what is transferred were parts."""
    return node.get("_target_") == _MATCHING and "matching" not in node


def _objective(objective: Any) -> Any:
    """An objective under today's names, the weights of its losses in their nodes."""
    if not isinstance(objective, dict):
        return objective
    objective = _renamed(objective, _OBJECTIVE)
    if isinstance(objective.get("lr_schedule"), dict):
        objective["lr_schedule"] = _renamed(objective["lr_schedule"], _LR_SCHEDULE)
    weights, losses = objective.pop("weights", None), objective.get("losses")
    if isinstance(weights, dict) and isinstance(losses, dict):
        for name, weight in weights.items():
            if isinstance(losses.get(name), dict):
                losses[name] = {**losses[name], "weight": weight}
    return objective


def _renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}


def _extractor(node: dict[str, Any]) -> dict[str, Any]:
    """An extractor that compares by a trained network, of today's parts."""
    if _of_old(node):
        textures = {"_target_": f"{_EXTRACTORS}.matching.DetailExtractor"}
        if "channels" in node:
            textures["channels"] = node["channels"]
        trained = {"textures": node.get("trainable", True), "matching": node.get("train_matching")}
        matching = {"_target_": "restore.models.matching_network.MatchingNetwork"}
        matching["weights"] = node.get("weights", "bundled")
        return {
            "_target_": _MATCHING,
            "matching": matching,
            "textures": textures,
            "trainable": [name for name, changes in trained.items() if changes],
        }
    if node.get("_target_") == _CONTRASTIVE:
        trained_ = ["textures", *(["matching"] if node.get("trainable") else [])]
        return {**node, "_target_": _MATCHING, "trainable": trained_}
    return node


def _targets(config: Any) -> Any:
    if isinstance(config, dict):
        config = _extractor(config)
        return {
            key: _target(value) if key == "_target_" and isinstance(value, str) else _targets(value)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [_targets(value) for value in config]
    return config


def _target(target: str) -> str:
    if target in _CLASSES:
        return _CLASSES[target]
    parts = target.split(".")
    for count in range(len(parts), 1, -1):
        if moved := _MODULES.get(".".join(parts[:count])):
            return ".".join([moved, *parts[count:]])
    return target
