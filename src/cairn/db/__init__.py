"""The shared state: one database, read and written in transactions by plain functions."""
