"""Measurements of the package and of other programs beside it. Not part of the installed package."""
