"""The export formats, one module each.

A module's name is the value of the setting ``format``, the first line of its docstring is the description in
``--help``, and its `FORMAT` is a `distil_ray.export.base.ExportFormat`. Adding a module here adds the format to the
job, its help and its error messages; nothing else has to be registered. Formats of other packages come from the entry
point group ``distil_ray.exporters``, or are named by import path (``format=my_package.module:FORMAT``).
Begin with `txt`, the shortest.
"""
