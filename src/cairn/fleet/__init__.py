"""The hosts: who they are, what they have, whether they live, and the streams to their agents."""
