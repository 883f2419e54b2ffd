"""Names that have changed, so that runs and checkpoints stored under the old ones go on working."""

from typing import Any

# Modules by their old name; what lay in a package moved with it unless it stands here itself.
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
    "restore.backbones": "restore.models.backbones",
    "restore.discriminators": "restore.models.discriminators",
    "restore.inpainting": "restore.inference.inpainting",
    "restore.bench": "restore.tools.bench",
    "restore.comparison": "restore.tools.compare",
    "restore.exports.matching": "restore.tools.export.attention",
    "restore.exports": "restore.tools.export",
    "restore.preparation.mapping": "restore.tools.prepare.warp",
    "restore.preparation": "restore.tools.prepare",
}


def current(config: Any) -> Any:
    """A stored configuration under today's names; nothing else in it is changed."""
    if isinstance(config, dict):
        return {
            key: _target(value) if key == "_target_" and isinstance(value, str) else current(value)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [current(value) for value in config]
    return config


def _target(target: str) -> str:
    parts = target.split(".")
    for count in range(len(parts) - 1, 1, -1):
        if moved := _MODULES.get(".".join(parts[:count])):
            return ".".join([moved, *parts[count:]])
    return target
