"""What `make demo` needs around the job: sample speech from the package registry, and an S3 endpoint on loopback.

The job itself (`jobs/transcribe.py`) knows nothing of this folder.
"""
