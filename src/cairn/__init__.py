"""Cairn: a private cloud that speaks OpenStack's APIs. The map of this package is docs/ARCHITECTURE.md."""

__version__ = "0.2.0"
