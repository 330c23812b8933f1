"""Cairn: a private cloud that speaks OpenStack's APIs. The map of this package is docs/ARCHITECTURE.md."""
