"""The input formats, one module each: the values of ``input.format``.

A module's name is the value, the first line of its docstring is the description in ``--help``, and its `FORMAT` is a
`distil_ray.readers.base.InputFormat`: the reader, and the predicates that detect the format. To add a format, add a
module with these three, its test, and a row in ``docs/formats.md``; nothing else has to be changed. `audiofolder` is
the shortest complete example, `ljspeech` the shortest with its own parser.

Another package adds a format by an entry point in the group ``distil_ray.readers``; or the setting names it by import
path, ``my_package.module:reader``, where `reader` is an `InputFormat` or only the function that reads a URI.
"""
