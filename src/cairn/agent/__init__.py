"""One host's agent: look, plan, act, report. Sees drivers, wire and core; nothing of the control plane."""
