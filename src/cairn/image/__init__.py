"""Images: what disks are made from. Glance's API v2 over local files and the common database."""
