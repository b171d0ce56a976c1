"""a NeMo manifest, a JSON line per recording."""

from distil_ray.export.audio import AudioHeaders
from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.records import require_file, to_json_line, with_metadata
from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.storage.storage import Storage


class NemoWriter:
    """Renders lines of a NeMo manifest. Reads a file's header where one of its channels was transcribed alone."""

    def __init__(self, storage: Storage) -> None:
        self._headers = AudioHeaders(storage)

    def __call__(self, transcript: Transcript) -> str:
        """Returns the line of a transcript.

        Raises:
            NotExportableError: A NeMo manifest cannot describe the recording.
        """
        require_file(transcript)
        if transcript.location.channel is not None or self._is_one_of_several(transcript):
            raise NotExportableError("one channel of a file, which a NeMo manifest cannot name; format=lhotse can")
        return _render(transcript)

    def _is_one_of_several(self, transcript: Transcript) -> bool:
        return transcript.channel is not None and self._headers.read(transcript.recording.uri).num_channels > 1


def _render(transcript: Transcript) -> str:
    record = {
        "audio_filepath": transcript.recording.uri,
        "offset": transcript.location.start_s,
        "duration": transcript.duration_s,
        "text": transcript.text,
        "lang": transcript.recording.language,
        "id": transcript.recording_id,
    }
    return to_json_line(with_metadata(record, transcript))


FORMAT = ExportFormat(Layout.LINES, ("manifest.jsonl",), NemoWriter, reads_audio=True)
