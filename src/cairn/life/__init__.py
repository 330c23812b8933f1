"""Lives as tables, and the loop that keeps what is true to what should be."""
