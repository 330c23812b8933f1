"""The schema's history, forward only; one file a step, each doing one thing."""
