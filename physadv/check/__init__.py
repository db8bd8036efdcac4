"""Test a printed patch on camera frames, with clean and blank controls.

The package can be called itself: ``physadv.check(source, bundle=...)`` is
:func:`physadv.check.check_patch.check`.

Args:
    source: Folder of the twin, video, folder of photos or clips, stream address, or camera index.
    bundle: Bundle that was printed, by folder or name.
    model: Model under test; None for the bundle's.
    out: Folder of the run; None records nothing.
    on_progress: Called after each batch of frames.
    settings: Further fields of :class:`physadv.check.config.CheckConfig`.

Returns:
    A :class:`physadv.check.check_patch.CheckResult`.

Raises:
    PhysadvError: The source, the bundle, the model or a setting cannot be used.

Example:
    >>> import physadv
    >>> callable(physadv.check)
    True
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physadv.check.check_patch import CheckResult


class _CallableRoom(ModuleType):
    """The module, which is also the function that its users look for under this name."""

    def __call__(self, source: Any, **settings: Any) -> CheckResult:
        """Check ``source``; see :func:`physadv.check.check_patch.check` for the ``settings``."""
        from physadv.check.check_patch import check

        return check(source, **settings)


sys.modules[__name__].__class__ = _CallableRoom
