"""The project's own batched decoding loop for Whisper checkpoints."""
