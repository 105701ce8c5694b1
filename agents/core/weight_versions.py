"""Tell whether the weights of a module have changed."""

from __future__ import annotations

from torch import nn

__all__ = ["WeightVersions"]


class WeightVersions:
    """Read the versions of all weights of a module, without a walk through its tree each time.

    Where modules hold other modules than before (adapters were added, a layer was exchanged), the tree is walked anew.
    """

    def __init__(self, module: nn.Module) -> None:
        self._modules = [module]
        self._children: list[nn.Module | None] = []

    def read(self) -> list[tuple[int, int]]:
        """Return the address and the version of every weight: equal lists mean equal weights."""
        children = self._find_children()
        if children != self._children:
            self._modules = [*self._modules[0].modules()]
            self._children = self._find_children()
        weights = [weight for module in self._modules for weight in module._parameters.values() if weight is not None]
        return [(weight.data_ptr(), weight._version) for weight in weights]

    def _find_children(self) -> list[nn.Module | None]:
        return [child for module in self._modules for child in module._modules.values()]
