"""What a browser gets from us beside the APIs."""
