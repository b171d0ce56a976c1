"""The cost of the pipeline itself: a run with a model that answers at once, measured process by process."""
