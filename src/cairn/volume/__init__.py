"""Block storage (Cinder v3): volumes, their snapshots and types, and where they live."""
