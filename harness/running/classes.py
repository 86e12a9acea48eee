"""Classes of nets: a plugin may change its own net, not what all nets of a class compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from harness.errors import PluginError
from harness.storage.codec import Loaded

_METHODS = ("forward", "activations", "__call__", "_call_impl")
_MISSING = object()


class NetClasses:
    """The methods of nets' classes, as they were when this process first saw them."""

    def __init__(self) -> None:
        self._known: dict[type, tuple[Any, ...]] = {}

    @contextmanager
    def kept(self, parents: Iterable[Loaded]) -> Iterator[None]:
        """Put back the methods of the classes of the nets of ``parents`` that the block replaced.

        Raises :class:`PluginError` with their names: other nets, and other stages, have the same classes.
        """
        classes = {cls for each in parents if each.net is not None for cls in _classes(each.net)}
        new = {cls: _methods(cls) for cls in classes if cls not in self._known}
        # A class that a function makes at each build is not remembered: there would be ever more of them.
        self._known |= {cls: methods for cls, methods in new.items() if "<locals>" not in cls.__qualname__}
        watched = self._known | new
        try:
            yield
        except BaseException:
            _put_back(watched)
            raise
        if replaced := _put_back(watched):
            raise PluginError(
                f"it replaced {', '.join(replaced)} of the class, which all nets of it share: "
                "write an Architecture whose nets compute so"
            )


def _classes(net: nn.Module) -> set[type]:
    return {cls for kind in {type(module) for module in net.modules()} for cls in kind.__mro__[:-1]}


def _methods(cls: type) -> tuple[Any, ...]:
    own = vars(cls)
    return tuple([own.get(name, _MISSING) for name in _METHODS])


def _put_back(watched: Mapping[type, tuple[Any, ...]]) -> list[str]:
    """The names of the methods that are not as they were, which are put back."""
    replaced = []
    for cls, methods in watched.items():
        if methods != _methods(cls):
            for name, method in zip(_METHODS, methods, strict=True):
                if vars(cls).get(name, _MISSING) is not method:
                    replaced.append(f"{cls.__name__}.{name}")
                    delattr(cls, name) if method is _MISSING else setattr(cls, name, method)
    return sorted(replaced)
