"""The operator's commands. Each lives in a module of its own, imported only when it is called."""
