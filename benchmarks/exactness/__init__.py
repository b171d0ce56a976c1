"""The native recognizer beside transformers, token by token."""
