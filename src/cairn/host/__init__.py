"""What Cairn does to its machine: engines, images, keys, processes, and taking it all away."""
