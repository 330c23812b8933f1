"""The SQL of the network service, a module a family of tables."""
