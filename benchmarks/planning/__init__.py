"""The cost of listing and planning a large input."""
