"""The simulator in real time: control plane, agents and clients as processes, measured."""
