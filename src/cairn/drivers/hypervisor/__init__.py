"""Guests: QEMU on this host, and the fake that promises the same."""
