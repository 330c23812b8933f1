"""The ways of signing in: each proves who somebody is, and how narrow the session must be."""
