"""Encoded audio to chunks of 16 kHz mono PCM16. Knows numpy, not torch; nothing of Ray."""
