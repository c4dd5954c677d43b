"""Named access to MuJoCo's arrays that looks each name up once.

dm_control translates names such as ``qpos[['hip', 'knee']]`` into positions at every access, which costs a
quadruped about a third of the time of its simulation. The names of a model never change, so the translation is
kept. Imports dm_control: import this module only where a simulation is built.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from dm_control.mujoco import index

__all__ = ["CachedFieldIndexer", "cache_named_indices"]


def _frozen(item: Any) -> Any:
    """Hashable stand-in for an index made of names, numbers, slices, lists and arrays, by their contents."""
    kind = type(item)
    if kind is str or kind is int:
        return item
    if kind is slice:
        return (slice, item.start, item.stop, item.step)
    if kind is list and item and type(item[0]) is str:
        return (list, *item)
    if kind is np.ndarray:
        return (np.ndarray, item.shape, item.dtype.kind, *item.ravel().tolist())
    if isinstance(item, list | tuple):
        return (kind, *map(_frozen, item))
    return (kind, item)


def _has_name(item: Any) -> bool:
    if isinstance(item, list | tuple):
        return any(_has_name(part) for part in item)
    return isinstance(item, str) or (isinstance(item, np.ndarray) and item.dtype.kind == "U")


class CachedFieldIndexer(index.FieldIndexer):
    """A ``FieldIndexer`` that remembers the numpy index of every key with a name in it.

    Args:
        original: The indexer of the same field made by dm_control.
        array: The field itself [rows, ...], a view of MuJoCo's memory.
    """

    __slots__ = ("_array", "_by_key", "_by_names")

    def __init__(self, original: Any, array: np.ndarray) -> None:
        for slot in index.FieldIndexer.__slots__:
            setattr(self, slot, getattr(original, slot))
        self._array = array
        self._by_key: dict[Any, Any] = {}
        self._by_names: dict[tuple[str, ...], np.ndarray] = {}

    def _lookup(self, key: Any) -> Any:
        try:
            return self._by_key[key]
        except KeyError:
            return self._translate(key, key)
        except TypeError:  # a slice, list or array is part of the key
            pass
        token = _frozen(key)
        try:
            return self._by_key[token]
        except KeyError:
            return self._translate(key, token)

    def _translate(self, key: Any, token: Any) -> Any:
        found = self._convert_key(key)
        if _has_name(key):
            self._by_key[token] = found
        return found

    def _places(self, names: tuple[Any, ...]) -> np.ndarray | None:
        """Row numbers of a list of names; ``None`` if it holds anything else."""
        try:
            return self._by_names[names]
        except (KeyError, TypeError):
            if not names or not all(type(name) is str for name in names):
                return None
        places = np.asarray(self._convert_key(list(names)), dtype=np.intp)
        self._by_names[names] = places
        return places

    def __getitem__(self, key: Any) -> Any:
        if type(key) is list:
            places = self._places(tuple(key))
            if places is not None:
                return self._array.take(places, axis=0)
        return self._array[self._lookup(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._array[self._lookup(key)] = value


def cache_named_indices(physics: Any) -> None:
    """Make ``physics.named`` remember its translations. Values read and written stay the same.

    Args:
        physics: A ``dm_control.mujoco.Physics``; its model must not be reloaded afterwards.
    """
    structs = []
    for struct, pointer in ((physics.named.model, physics.model.ptr), (physics.named.data, physics.data.ptr)):
        fields = {
            name: CachedFieldIndexer(old, getattr(pointer, name)) for name, old in struct._asdict().items()
        }
        structs.append(index.make_struct_indexer(fields))
    physics._named = type(physics.named)(*structs)
