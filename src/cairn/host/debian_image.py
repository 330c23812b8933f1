"""Builds a full Debian with cloud-init, of the machine's own release, by mmdebstrap.

The loader lies in a small FAT partition and the root partition is last, as in the probe image, so
that nothing is ever mounted: mmdebstrap works in a namespace and writes the root as a tar archive,
which becomes the file system through `mke2fs -d`.
"""
