"""The assistant that a corpus trains itself: from transcripts and their audio to a student that drafts."""
