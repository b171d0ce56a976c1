"""The chunking strategies, one module each: the values of `chunking.strategy`.

A module's name is the value, the first line of its docstring is the description in ``--help``, and its `CHUNKER` is
the `distil_ray.chunking.base.Chunker` subclass. A new module with these three, and its test, is a new strategy; nothing
else has to be changed. `quiet` is the shortest example. Another package registers a strategy by an entry point in the
group ``distil_ray.chunkers``, or is named in the setting by import path: ``my_package.module:MyChunker``.
"""
