"""`restore list`: every group of the configuration and what can be chosen there."""

from restore.config import registry
from restore.config.groups import own_folders, searching


def show(words: list[str]) -> None:
    """Prints the groups (all, or those wanted) with each name and a line of what it is.

    Args:
        words: names of groups; `--config-dir DIR` for what stands in a folder of the user's too.

    Raises UserError for a group or a folder that is not there.
    """
    folders, wanted = own_folders(words)
    with searching(*folders):
        for group in wanted:
            registry.check_group(group)
        for group in wanted or registry.groups():
            print(f"{group}=")
            for name in registry.names(group):
                print(f"  {name:<24} {registry.describe(group, name)}".rstrip())
