"""Weights in other programs' formats: one module per format, which reads and writes it.

`openai` (openai-whisper's .pt), `ggml` (whisper.cpp; its quantized blocks in `ggml_blocks`), `ctranslate2`
(faster-whisper), `torch_files` (pytorch_model.bin), `onnx` (transformers.js, written only), `hugging_face` (the folders
that recognition reads). `tensors` is the common form between them, `vocabulary` makes tokenizers of text tokens,
`model_files` the JSON files of a folder, and `detection` finds the format of a file by its content. Nothing in a file
is executed, and no format needs the memory of more than one tensor. Begin with `tensors`, then `openai`.
"""
