"""Converters from Hugging Face's checkpoint format to the formats of other programs, without changing the numbers.

`hugging_face.py` reads a checkpoint; `ctranslate2.py` (faster-whisper), `ggml.py` (whisper.cpp) and `openai.py`
(openai-whisper) write it; `convert.py` chooses the converter and caches the result. ggml quantizes to q8_0, as
whisper.cpp's own tools do. OpenVINO's format is made by its own exporter. Begin with `convert.py`.
"""
