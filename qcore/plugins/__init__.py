"""Plugins: found by entry point, switched, loaded one by one, and reported one by one."""

from __future__ import annotations

from qcore.plugins.framework import Framework, default, reset_default, set_default
from qcore.plugins.status import PluginStatus

__all__ = ["Framework", "PluginStatus", "default", "reset_default", "set_default"]
