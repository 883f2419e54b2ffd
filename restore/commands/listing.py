"""`restore list`: every group of the configuration and what can be chosen there."""

from restore.config import registry


def show(wanted: list[str]) -> None:
    """Prints the groups (all, or those wanted) with each name and a line of what it is.

    Raises UserError for a group that is not there.
    """
    for group in wanted:
        registry.check_group(group)
    for group in wanted or registry.groups():
        print(f"{group}=")
        for name in registry.names(group):
            print(f"  {name:<24} {registry.describe(group, name)}")
