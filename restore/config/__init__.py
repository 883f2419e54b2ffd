"""Configurations: composed of `conf/`, checked, and explained where something is wrong.

Everything a user can mistype is found here, before any work: keys and choices by Hydra, types
and ranges by the classes in `restore.config.settings`, the arguments of parts by their signatures.
"""

from restore.config.check import NotText, check, check_part, locate, parts
from restore.config.compose import compose, opened, plain, refuse_unknown
from restore.config.explain import explain
from restore.config.groups import MODULE, conf, names, unknown

__all__ = [
    "MODULE",
    "NotText",
    "check",
    "check_part",
    "compose",
    "conf",
    "explain",
    "locate",
    "names",
    "opened",
    "parts",
    "plain",
    "refuse_unknown",
    "unknown",
]
