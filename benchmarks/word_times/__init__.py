"""The times of words beside known edges of utterances."""
