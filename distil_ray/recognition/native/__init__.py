"""A batched decoding loop for Whisper checkpoints, written for this project.

The weights and the encoder layers are Hugging Face's. Everything else is here: the batch, its scheduler, the key-value
caches, the decoder step, the decoding rules, timestamps, and speculative decoding.

The folder does not know recordings, files, configuration, or Ray: chunks of PCM go in, `Hypothesis` records come out.

Two rules hold in every module. The tokens of a chunk depend on nothing but the chunk: not on its neighbors in the
batch, their order, or the number of slots (bit for bit in float32 on a CPU; up to rounding elsewhere). And on a GPU the
host waits for the device only where a loop polls for finished rows.

Begin with `recognizer.py`, then `slot_loop.py` and `decoding_loop.py`. What a loop needs follows: `scheduler.py` (which
chunk holds which slot), `batch_state.py` (tokens of each row), `kv_cache.py`, `encoder.py` with `encoder_attention.py`,
`decoder.py` with `attention.py`, `state_attention.py` and `linear.py`, and `logits_rules.py` with
`repetition_rules.py`. Several texts of a chunk, of which one is returned: `hypotheses_loop.py` with `beam_search.py`,
`best_of.py` and `branch_table.py`. After decoding: `fallback.py`, `chunk_decoding.py`, `alignment.py`,
`word_timestamps.py`. Optional parts: `speculative.py`, `cuda_graphs.py`, `triton_attention.py`.
"""
