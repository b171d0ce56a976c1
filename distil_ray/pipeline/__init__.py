"""The callables that Ray runs: rows in, rows out. They do not import Ray, so a test calls them as functions."""
