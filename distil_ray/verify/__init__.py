"""Looking back at an output: does it hold together, and would its rows come out the same again."""
