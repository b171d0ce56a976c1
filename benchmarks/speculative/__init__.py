"""Speculative decoding beside decoding without drafts."""
