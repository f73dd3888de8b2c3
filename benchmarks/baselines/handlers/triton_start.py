"""PyTriton 0.7 brings an early interpreter of Python 3.11, which lacks a method that later libraries call."""

from multiprocessing import resource_tracker
from threading import RLock
from typing import Any


class Lock:
    """As the lock that it replaces, never held twice."""

    def __init__(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._lock.release()

    def _recursion_count(self) -> int:
        return 1


tracker: Any = resource_tracker._resource_tracker
if not hasattr(tracker._lock, "_recursion_count"):
    tracker._lock = Lock()
