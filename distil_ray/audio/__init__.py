"""Decodes audio files of any format to 16 kHz mono PCM16, and encodes PCM16 as FLAC and Opus.

Begin with `decode`: `decode_file` streams a file, or a segment of one, in pieces and ends with a `DecodeResult`. It
reads with libsndfile (`soundfile_backend`) and, where that cannot, with FFmpeg's libraries (`pyav_backend`, `seek`,
`timeline`). Before, `file_type` recognizes what the bytes are, and `streams`, `headers` and `ogg` find all audio that a
file holds, also where its header is wrong. `conversion` mixes channels and resamples; `pcm` has the types, `segments`
the parts of a file that can be asked for. The C libraries may crash, hang or run out of memory: `subprocess_decoder`
runs `decode_file` in a process of its own (`subprocess_worker`), and this is what the pipeline uses. `probe` reads the
format from a header without decoding.

The folder knows local files only. It does not know URIs, recordings, settings, chunks, Arrow or Ray. Memory is bounded
whatever the length of a file.
"""
