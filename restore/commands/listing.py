"""`restore list`: every group of the configuration and what can be chosen there."""

from restore.config import registry, unknown
from restore.errors import UserError


def show(wanted: list[str]) -> None:
    """Prints the groups (all, or those wanted) with each name and a line of what it is.

    Raises UserError for a group that is not there.
    """
    known = registry.groups()
    for group in wanted:
        if group not in known:
            raise UserError(unknown(group, known).replace("a setting", "a group"))
    for group in wanted or known:
        print(f"{group}=")
        for name in registry.names(group):
            print(f"  {name:<24} {registry.describe(group, name)}")
