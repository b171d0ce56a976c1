"""Cuts recordings into chunks, and merges the transcripts of chunks into the transcript of a recording.

Begin with `base`: it defines `Chunk`, and `Chunker`, the base class of all strategies. A strategy is one module of
`strategies/`; its class declares what the rest of the pipeline has to know, for example whether neighboring chunks
share audio. No other module asks for a strategy by name. `merge` joins the texts of chunks in their order, or, where
chunks overlap, by their tokens.

The folder knows samples, tokens and times. It knows nothing of files, settings, models for recognition or Ray. It
imports `audio` for the type of samples; `audio` never imports it.
"""
