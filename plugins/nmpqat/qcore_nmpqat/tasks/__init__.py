"""Tabular and telecom data that the method is tried on. This package imports no torch until a task is loaded."""
