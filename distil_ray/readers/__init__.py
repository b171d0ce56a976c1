"""Where recordings come from: one module a form of corpus, `listing` over them all."""

from distil_ray.readers.listing import Ignored, Listing, list_recordings

__all__ = ["Ignored", "Listing", "list_recordings"]
