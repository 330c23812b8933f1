"""Where services are: what is mounted, what operators add, what a project sees of it; policies."""
