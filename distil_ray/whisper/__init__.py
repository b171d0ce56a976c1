"""Whisper's checkpoint: weights, loaded modules, features, tokens. Knows nothing of Ray, storage or Arrow tables."""
