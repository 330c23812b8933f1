"""Compute: servers, flavors and key pairs behind Nova's API."""
