"""Types of the data that travels through the package: recordings, hypotheses and rows of transcripts.

The types need nothing but the standard library. `distil_ray.schema` makes the Arrow schemas from them: a field of a
type is a column (or a field of a nested column) with the same name, in the same order. To add a column to the output,
add a field to `TranscriptRow` with the schema version that adds it (`AddedIn`) and compute it in
`distil_ray.pipeline.transcript_rows`.

Times between the stages are counted in samples at `SAMPLE_RATE`. Names that end in ``_s`` are seconds.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated

SAMPLE_RATE = 16_000  # Hz; the rate of all decoded audio, and the one that Whisper expects
BYTES_PER_SAMPLE = 2  # PCM16

EDITS = ("substitutions", "deletions", "insertions")  # columns of a row's score, in words
WORD_COUNTS = ("num_ref_words", *EDITS)


@dataclass(frozen=True, slots=True)
class ArrowType:
    """Annotation of a field whose Arrow type does not follow from its Python type, or that must not be null."""

    name: str  # of the function in pyarrow that makes the type
    nullable: bool = True


@dataclass(frozen=True, slots=True)
class AddedIn:
    """Annotation of a field of `TranscriptRow` (or a type nested in it) that schema version 1 did not have."""

    version: int


Int32 = Annotated[int, ArrowType("int32")]
Float32 = Annotated[float, ArrowType("float32")]


class Status(StrEnum):
    """Result of a recording (column ``status``)."""

    OK = "ok"  # decoded to its end, with words
    DOUBTFUL = "doubtful"  # as OK, but quality flags say that the text may not be what was spoken
    EMPTY = "empty"  # decoded to its end, without words
    PARTIAL = "partial"  # some of its audio could not be decoded or recognized; the rest was transcribed
    FAILED = "failed"  # none of its audio could be transcribed


STATUSES_WITH_TEXT = (Status.OK, Status.DOUBTFUL, Status.PARTIAL)


@dataclass(frozen=True, slots=True)
class AudioLocation:
    """The part of the file at a URI that is one recording. A field that is None does not narrow it.

    Attributes:
        member: Member of an archive, or column of a table.
        byte_start: First byte of the member in an archive that is not compressed.
        num_bytes: Length of the member in such an archive.
        row_group: Row group of the table.
        row: Row in the row group, from 0.
        start_s: Start of the segment in the audio, in seconds.
        length_s: Length of the segment, in seconds.
        channel: One of several channels, from 0.
    """

    member: str | None = None
    byte_start: int | None = None
    num_bytes: int | None = None
    row_group: Int32 | None = None
    row: Int32 | None = None
    start_s: float | None = None
    length_s: float | None = None
    channel: Int32 | None = None


@dataclass(frozen=True, slots=True)
class SpeakerTurn:
    """Seconds of a recording, from its first sample, in which one speaker talks. Turns of several may overlap."""

    start_s: float
    end_s: float
    speaker: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text that precedes the audio as far as the model knows, and terms that it should expect.

    Attributes:
        text: Example of the names, spelling and style to follow.
        hotwords: Words and phrases that may occur.
    """

    text: str = ""
    hotwords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording to transcribe, as a reader lists it.

    Attributes:
        recording_id: Unique id in the input.
        uri: The file.
        source_size: Bytes of the file or member; with `source_version` it distinguishes a changed file from a known
            one.
        source_version: The store's etag, else the modification time, followed by the part of the audio and a hash of
            the prompt (`readers.location`).
        location: The part of the file; None where the recording is the whole file.
        duration_s: The duration that the input states, if it does.
        language: The language that the input states, if it does.
        reference: The reference text, if there is one.
        metadata: Every further column of the input as a string, ``speaker`` among them.
        error_kind: An `ErrorKind`, set with `error`.
        error: Why the recording cannot be read, where the reader knows already. Such a recording is listed so that it
            is accounted for; it is not read and becomes a failed row.
        call_id: Id that the recordings of one call share, such as the channels of a file.
        rttm_uri: RTTM file with the speaker turns, if there is one.
        speaker_turns: The speaker turns of that file; None if there is no such file.
        prompt: The prompt that the input states, if it does.
    """

    recording_id: str
    uri: str
    source_size: int | None = None
    source_version: str | None = None
    location: AudioLocation | None = None
    duration_s: float | None = None
    language: str | None = None
    reference: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    error_kind: str | None = None
    error: str | None = None
    call_id: str | None = None
    rttm_uri: str | None = None
    speaker_turns: tuple[SpeakerTurn, ...] | None = None
    prompt: Prompt | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """Text between two times in seconds: from the first sample of its chunk, or of its recording once merged.

    `speaker` is None where the speaker is not known; the write stage assigns it by the recording's speaker turns.
    """

    start_s: float
    end_s: float
    text: str
    speaker: Annotated[str | None, AddedIn(3)] = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Word(Segment):
    """A word with its times and the mean probability of its tokens, None where the recognizer has none.

    Its text includes the blanks around it.
    """

    probability: float | None


@dataclass(frozen=True, slots=True)
class TokenAlignment:
    """Times and probabilities of the tokens of a chunk; one entry per token, timestamp tokens included.

    Attributes:
        ends: Encoder positions (20 ms) from the chunk's first sample, never decreasing. A token begins where the one
            before it ends, the first at 0.
        probabilities: Probabilities of the tokens as chosen, after the decoding rules.
        word_starts: Samples from the chunk's first one. A word lasts from the start of its first token to the end of
            its last. Empty until the word timestamps are computed.
        word_ends: As `word_starts`; the sample after the word's last one.
    """

    ends: tuple[Int32, ...]
    probabilities: tuple[Float32, ...]
    word_starts: tuple[Int32, ...] = ()
    word_ends: tuple[Int32, ...] = ()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Recognized text of one chunk with its quality metrics. A recognizer leaves None what it cannot know.

    Attributes:
        text: The text; empty where the chunk could not be recognized.
        tokens: Token ids after the prompt, timestamp tokens included, without the end token. Empty, and null in the
            output, for recognizers that return none (`RecognizerCapabilities.returns_tokens`).
        avg_logprob: OpenAI's: sum of the tokens' log-probabilities, end token included, over their number plus one.
        no_speech_prob: Probability of ``<|nospeech|>`` (``<|nocaptions|>``) at the start-of-transcript position.
        compression_ratio: Bytes of the text over its zlib-compressed bytes.
        temperature: Temperature of the attempt that was taken.
        window_s: Length of the encoder's input in seconds.
        segments: None unless timestamps were requested.
        words: None unless word timestamps were requested. Their texts, joined without a separator, are `text`.
        alignment: None unless word timestamps were requested.
        quality_flags: Names of quality flags that apply.
        drafts_proposed: Tokens drafted by an assistant that the model verified.
        drafts_accepted: Those of them that were its own choice.
        unheard_s: Seconds of speech between the end of the text and the end of the chunk (or the end of what the next
            chunk does not cover, where chunks overlap); 0.0 where there is none, None where it is unknown.
        error: Why the chunk could not be recognized.
        error_kind: An `ErrorKind`, set with `error`.
        language: Code of the language that the chunk was transcribed in; set by the transcribe stage.
        language_prob: Its probability, where it was detected: the mean over the recording's detection chunks, or that
            of the chunk with ``decoding.language_per=chunk``; set by the transcribe stage.
    """

    text: str
    tokens: tuple[Int32, ...] = ()
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    compression_ratio: float | None = None
    temperature: float | None = None
    window_s: float | None = None
    segments: tuple[Segment, ...] | None = None
    words: tuple[Word, ...] | None = None
    alignment: TokenAlignment | None = None
    quality_flags: tuple[str, ...] = ()
    drafts_proposed: Int32 = 0
    drafts_accepted: Int32 = 0
    unheard_s: float | None = None
    error: str | None = None
    error_kind: str | None = None
    language: str | None = None
    language_prob: float | None = None


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """A chunk's samples: in its recording, and in the PCM of the part that it travels in.

    Attributes:
        recording: The recording's row in its task.
        index: Number of the chunk in its recording, from 0.
        start: The chunk's first sample in the recording.
        offset: The chunk's first sample in the part's PCM.
        num_samples: Length of the chunk.
        stride_left: Samples shared with the chunk before; 0 where chunks do not overlap.
        stride_right: Samples shared with the chunk after; 0 where chunks do not overlap.
        language: Code of the language; None where it has to be detected.
        detects_language: The chunk takes part in the detection of its recording's language, or its own is detected.
        detection_only: The chunk was recognized with an earlier part and only takes part in the detection here.
        prompt: The prompt that the input states for the recording.
    """

    recording: Int32
    index: Int32
    start: int
    offset: int
    num_samples: int
    stride_left: int
    stride_right: int
    language: str | None
    detects_language: bool
    detection_only: bool
    prompt: Prompt | None


@dataclass(frozen=True, slots=True)
class DecodedRecording:
    """Result of decoding one recording. It is in the part in which the recording's audio ended.

    Attributes:
        recording: The recording's row in its task.
        num_samples: Samples that were decoded.
        num_chunks: Chunks that they were cut into, over all parts.
        error_kind: An `ErrorKind`; None if the recording was decoded to its end.
        error: The message.
        quality_flags: Flags of the decoder, such as ``clipped``.
    """

    recording: Int32
    num_samples: int
    num_chunks: Int32
    error_kind: str | None
    error: str | None
    quality_flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LanguageShare:
    """A language of a recording, and its share of the audio that has text, from 0 to 1."""

    language: str
    share: float


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """A chunk of a `TranscriptRow`: its span in the recording and its hypothesis."""

    start_s: float
    end_s: float
    language: Annotated[str | None, AddedIn(4)]
    language_prob: Annotated[float | None, AddedIn(4)]
    text: str
    avg_logprob: float | None
    no_speech_prob: float | None
    compression_ratio: float | None
    temperature: float | None
    window_s: float | None
    unheard_s: Annotated[float | None, AddedIn(2)]
    quality_flags: tuple[str, ...]
    tokens: tuple[Int32, ...] | None


@dataclass(frozen=True, slots=True)
class MetadataEntry:
    """An entry of `Recording.metadata`. The output holds lists of entries: `datasets` cannot read Arrow maps."""

    key: Annotated[str, ArrowType("string", nullable=False)]
    value: str | None


@dataclass(frozen=True, slots=True)
class TranscriptRow:
    """A row of the output: one recording with its transcript. docs/output.md describes the columns.

    The unit of `num_ref_words`, `substitutions`, `deletions`, `insertions` and `wer` is the word, or the character
    where the language writes no spaces between words (ja, zh, th …); `cer` always counts characters. `normalizer` is
    the name and version of what made the normalized texts. `unheard_s` is the sum over the chunks, None where it is
    known of none. `dtype` is what recognizers computed in, joined by commas where the chunks went to machines that
    differ; None where no chunk was recognized.
    """

    recording_id: str
    uri: str
    source_size: int | None
    source_version: str | None
    location: AudioLocation | None
    call_id: Annotated[str | None, AddedIn(3)]
    status: Status
    error_kind: str | None
    error: str | None
    duration_s: float
    language: str | None
    language_prob: float | None
    languages: Annotated[tuple[LanguageShare, ...] | None, AddedIn(4)]
    text: str | None
    text_normalized: str | None
    reference: str | None
    reference_normalized: str | None
    num_ref_words: int | None
    substitutions: int | None
    deletions: int | None
    insertions: int | None
    wer: float | None
    num_ref_chars: int | None
    char_edits: int | None
    cer: float | None
    normalizer: str | None
    chunks: tuple[ChunkResult, ...]
    segments: tuple[Segment, ...] | None
    words: tuple[Word, ...] | None
    avg_logprob: float | None
    no_speech_prob: float | None
    compression_ratio: float | None
    chars_per_s: float | None
    unheard_s: Annotated[float | None, AddedIn(2)]
    quality_flags: tuple[str, ...]
    acceptance_rate: float | None
    metadata: tuple[MetadataEntry, ...]
    model: str
    dtype: Annotated[str | None, AddedIn(5)]
    fingerprint: str
    run_id: str
    processed_at: datetime
