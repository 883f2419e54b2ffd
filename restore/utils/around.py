"""Objects that change a part of what another does."""

from typing import Any


class Around:
    """Does what another does, but for what a subclass does itself.

    Args:
        inner: the other; it is not changed.
    """

    def __init__(self, inner: Any):
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not there yet while a copy is being made
            raise AttributeError(name)
        return getattr(self.inner, name)
