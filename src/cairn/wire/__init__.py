"""What control plane and agent say to each other. Pure records and framing; imports core only."""
