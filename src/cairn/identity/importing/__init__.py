"""Taking over a Keystone: rows of its dump, planned and then applied in one transaction."""
