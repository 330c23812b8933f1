"""Keystone v3: who somebody is, what they may do where, and where each service is found."""
