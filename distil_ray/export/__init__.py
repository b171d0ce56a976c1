"""An output in the forms that other programs read: subtitles, plain text, manifests, WebDataset. It stays as it is."""
