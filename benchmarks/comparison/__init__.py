"""Speech recognition programs beside each other, each in an environment and a process of its own."""
