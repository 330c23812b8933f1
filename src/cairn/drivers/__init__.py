"""The engines under a node, each behind a small contract. Imports core and wire only."""
