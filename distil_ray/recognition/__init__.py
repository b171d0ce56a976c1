"""Recognizers: chunks of audio in, one hypothesis for each chunk out.

`base` defines the interface: the `Recognizer` Protocol and its options. `capabilities` declares which settings each
recognizer supports, and loads the one that ``model.recognizer`` names. There are two built-in recognizers: `native`
(this project's batched decoding loop, the default) and `transformers_recognizer` (`generate` of transformers, the
reference for tests). `quality_metrics` and `quality_flags` compute log-probabilities, compression ratios and the
signs of hallucinations for both.

The folder does not know Ray, storage, files, recordings or references. Begin with `base`, then `native.recognizer`.
"""
