"""The simulator: the real control plane and the real agent over fake engines, one seed, virtual time."""
