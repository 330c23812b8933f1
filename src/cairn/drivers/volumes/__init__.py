"""Engines that keep disks: files on a local file system, and the fake."""
