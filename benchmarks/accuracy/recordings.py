"""The recordings of the comparison: the same choice for every program, as WAV files."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from benchmarks.clips import Clip, ClipSets, decode_audio, list_sets, write_clip
from distil_ray.errors import SettingsError
from distil_ray.types import SAMPLE_RATE, Recording


def prepare_recordings(
    source: str,
    folder: Path,
    column: str,
    sets: Sequence[str],
    share: float,
    limit: int,
    max_s: float,
    languages: Sequence[str],
) -> ClipSets:
    """Chooses recordings with a reference, and writes them as WAV files.

    Args:
        source: Folder, glob or manifest; empty for the demo's samples.
        folder: Folder below which the files are written.
        column: Metadata column that names the set.
        sets: Sets to use, in this order; empty for all.
        share: Share of each set.
        limit: Maximum number of recordings of each set.
        max_s: Maximum duration of a recording, seconds.
        languages: Languages of the checkpoint; recordings in another one are left out.

    Returns:
        The clips of each set that is not empty, sorted by id.

    Raises:
        SettingsError: No recording fits.
    """
    listed = list_sets(source, folder, column, sets, share, languages)
    found: ClipSets = {}
    for name in sets or sorted(listed):
        clips = list(islice(_write_clips(listed.get(name, []), folder, max_s), limit))
        if clips:
            found[name] = sorted(clips, key=lambda clip: clip.clip_id)
    if not found:
        raise SettingsError(
            f"clips={source} sets={','.join(sets)} max_s={max_s:g}: no recording with a reference, in a language of the"
            " checkpoint"
        )
    return found


def _write_clips(recordings: Sequence[Recording], folder: Path, max_s: float) -> Iterator[Clip]:
    for recording in recordings:
        if recording.reference is not None and (recording.duration_s or 0.0) <= max_s:
            pcm = decode_audio(recording.uri)
            if 0 < len(pcm) <= max_s * SAMPLE_RATE:
                yield write_clip(recording, pcm, folder)
