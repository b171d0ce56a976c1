"""Files on local disks, in object stores and on web servers.

Only this folder imports fsspec. Every other folder passes URIs to `Storage` and does not know where a file is. Writes
are atomic: a file is written completely or not at all, and conditional writes (`put_if_absent`,
`replace_if_unchanged`) let one of several processes win.

Start with `storage.py`, the interface; `entries.py` has what a listing yields. `uris.py` normalizes and joins
locations, `storage_errors.py` turns errors into messages with hints. `local_files.py` and `atomic_files.py` implement
listing and writing on local disks, `s3_listing.py` listing in S3, `s3_objects.py` reading and deleting there with few
requests, `range_reader.py` reads parts, `http.py` sends requests with retries. `process_identity.py` identifies the
process that wrote a temporary file or a lease. This folder knows nothing about recordings, models or Ray.
"""
