"""Prompts, suppressed tokens and decoded text equal those of transformers for real checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, GenerationConfig

from distil_ray.types import Prompt
from distil_ray.whisper.suppressed_tokens import find_suppressed_ids
from distil_ray.whisper.tokenizer import Tokens
from tests.whisper.small import NUM_BYTES, VOCAB_SIZE, small_tokenizer, small_tokens, write_small_folder

SMALL = small_tokens()
TIME = SMALL.timestamp_begin


def ids(text: str) -> list[int]:
    return list(SMALL.tokenizer.encode(text, add_special_tokens=False).ids)


def test_a_multilingual_prompt_has_language_task_and_notimestamps(whisper_base: Path) -> None:
    tokens = Tokens.load(whisper_base)
    prompt = tokens.prompt("de", "translate")
    assert [tokens.tokenizer.id_to_token(i) for i in prompt] == [
        "<|startoftranscript|>",
        "<|de|>",
        "<|translate|>",
        "<|notimestamps|>",
    ]
    assert tokens.prompt("de", "transcribe", timestamps=True)[-1] == tokens.transcribe
    assert len(tokens.language_codes) == 99


def test_an_english_only_prompt_has_neither_language_nor_task(whisper_tiny_en: Path) -> None:
    tokens = Tokens.load(whisper_tiny_en)
    assert tokens.prompt("en") == (tokens.sot, tokens.no_timestamps)
    assert tokens.prompt("en", timestamps=True) == (tokens.sot,)
    assert tokens.language_codes == ("en",)
    with pytest.raises(ValueError, match="English only"):
        tokens.prompt("de")
    with pytest.raises(ValueError, match="cannot translate"):
        tokens.prompt("en", "translate")


def test_the_rules_are_those_of_the_generation_config(whisper_base: Path) -> None:
    tokens = Tokens.load(whisper_base)
    config: Any = GenerationConfig.from_pretrained(whisper_base)
    assert tokens.suppress == tuple(config.suppress_tokens)
    assert tokens.begin_suppress == tuple(config.begin_suppress_tokens)
    assert tokens.timestamp_begin == config.no_timestamps_token_id + 1
    assert tokens.no_speech == config.no_timestamps_token_id - 1
    assert {f"<|{code}|>": token for code, token in tokens.languages.items()} == config.lang_to_id


@pytest.mark.parametrize("model", ["whisper_base", "whisper_tiny_en"])
def test_text_is_decoded_exactly_as_transformers_decodes_it(model: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    tokens = Tokens.load(folder)
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    begin = tokens.timestamp_begin
    half_of_a_letter = tokens.tokenizer.encode(" ü", add_special_tokens=False).ids[-1:]
    for sequence in (
        tokens.tokenizer.encode(" Ein schöner Tag , 日本語 <|1.5|> !", add_special_tokens=False).ids,
        [begin, 400, 500, begin + 50, begin + 60, 600, begin + 1500, tokens.eot],
        [*half_of_a_letter, begin, *half_of_a_letter],
        [50, tokens.sot, 51, tokens.no_speech],
        list(range(0, 50_000, 997)),
        [],
    ):
        assert tokens.decode(sequence) == theirs.decode(sequence, skip_special_tokens=True).strip()


def test_segments_of_closed_phrases_are_those_of_transformers(whisper_base: Path) -> None:
    tokens = Tokens.load(whisper_base)
    theirs: Any = AutoTokenizer.from_pretrained(whisper_base)
    begin = tokens.timestamp_begin
    sequence = [begin + 25, 400, 500, begin + 50, begin + 60, 600, begin + 90, begin + 90, 700, begin + 100]
    expected = [
        (*(round(time, 6) for time in offset["timestamp"]), offset["text"].strip())
        for offset in theirs.decode(sequence, output_offsets=True)["offsets"]
    ]
    assert [(round(start, 6), round(end, 6), text) for start, end, text in tokens.segments(sequence)] == expected


def test_an_open_last_segment_ends_with_the_chunk() -> None:
    sequence = [TIME, *ids(" one"), TIME + 100, TIME + 100, *ids(" two")]
    assert SMALL.segments(sequence, duration_s=3.5) == [(0.0, 2.0, "one"), (2.0, 3.5, "two")]
    assert SMALL.segments(ids(" none"), duration_s=3.5) == [(0.0, 3.5, "none")]


@given(st.lists(st.one_of(st.integers(97, 110), st.integers(TIME, VOCAB_SIZE - 1))), st.floats(0.01, 30))
def test_segments_are_in_order_within_the_chunk_and_lose_no_text(sequence: list[int], duration_s: float) -> None:
    segments = SMALL.segments(sequence, duration_s)
    times = [time for start, end, _ in segments for time in (start, end)]
    assert times == sorted(times)
    assert all(0 <= time <= duration_s for time in times)
    spoken = SMALL.decode([token for token in sequence if token < TIME])
    assert "".join("".join(text for _, _, text in segments).split()) == "".join(spoken.split())


@given(st.integers(1, 10), st.one_of(st.none(), st.integers(1, 1000)))
def test_prompt_and_new_tokens_fit_into_the_decoder(prompt_length: int, requested: int | None) -> None:
    num_tokens = SMALL.max_new_tokens(prompt_length, requested)
    assert 1 <= num_tokens <= SMALL.max_positions - prompt_length
    assert requested is None or num_tokens <= requested


@given(st.lists(st.sampled_from([5, 6, TIME, TIME + 50]), max_size=12), st.integers(0, 14))
def test_a_text_is_truncated_behind_a_word_and_the_time_after_it(written: list[int], num: int) -> None:
    kept = list(SMALL.truncate(written, num))
    assert kept == written[: len(kept)]
    assert SMALL.text_ids(kept) == SMALL.text_ids(written)[:num]
    if len(kept) < len(written):
        words = [at for at, token in enumerate(kept) if token < TIME]
        assert len(kept) - 1 - (words[-1] if words else -1) == (written[words[-1] + 1 if words else 0] >= TIME)


def test_a_previous_text_is_that_of_transformers_cut_as_openai_cuts(whisper_tiny_en: Path) -> None:
    tokens, tokenizer = Tokens.load(whisper_tiny_en), AutoTokenizer.from_pretrained(whisper_tiny_en)
    text = "Emma Woodhouse, handsome, clever, and rich. "
    assert tokens.previous_text(Prompt(text)) == tuple(tokenizer.get_prompt_ids(text))
    long = tokens.previous_text(Prompt(text * 40))
    assert len(long) == 224  # as openai cuts
    assert long[1:] == tuple(tokenizer.get_prompt_ids(text * 40))[-223:]
    both = tokens.previous_text(Prompt(text * 40, ("Hartfield", " Knightley ")))
    assert tokens.decode(both[1:]).startswith("Hartfield, Knightley.")
    assert both[-100:] == long[-100:] and len(both) == 224
    assert tokens.previous_text(Prompt(" ", ("",))) == tokens.previous_text(None) == ()
    assert max(tokens.previous_text(Prompt("<|endoftext|>Emma<|0.00|>"))[1:]) < tokens.eot


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("Hartfield", " ", " Knightley "), "Hartfield, Knightley."),
        (("Mr. Knightley", "Mrs."), "Mr. Knightley, Mrs."),
        (("Hartfield", "Highbury?"), "Hartfield, Highbury?"),
        (("", " "), ""),
    ],
)
def test_hotwords_end_as_a_sentence_does(words: tuple[str, ...], text: str, whisper_tiny_en: Path) -> None:
    tokens = Tokens.load(whisper_tiny_en)
    assert tokens.decode(tokens.previous_text(Prompt("", words))) == text
    assert tokens.previous_text(Prompt("", words)) == tokens.previous_text(Prompt(text))


def test_hotwords_that_are_cut_off_end_with_a_full_stop_too(whisper_tiny_en: Path) -> None:
    tokens = Tokens.load(whisper_tiny_en)
    found = tokens.previous_text(Prompt("Emma Woodhouse.", ("Hartfield",) * 400))
    assert len(found) == 224
    assert tokens.decode(found[-1:]) == "." and tokens.decode(found).count("Hartfield") > 50


def test_a_prefix_leaves_a_fourth_of_the_positions_beside_the_longest_previous_text(whisper_tiny_en: Path) -> None:
    tokens = Tokens.load(whisper_tiny_en)
    prompt = Prompt("Emma Woodhouse, handsome, clever, and rich. " * 40)
    assert tokens.decode(tokens.prefix(" Well, ")) == "Well,"
    assert tokens.prefix("Well,", timestamps=True) == (tokens.timestamp_begin, *tokens.prefix("Well,"))
    assert tokens.prefix(None, timestamps=True) == tokens.prefix(" ") == ()
    assert tokens.prefix("one two " * 200) == tokens.prefix("one two " * 400)
    for num_words, num_previous in ((10, 224), (400, 109)):
        prefix = tokens.prefix("one two " * num_words)
        previous = tokens.previous_text(prompt, num_prefix=len(prefix))
        assert len(previous) == num_previous
        assert tokens.max_new_tokens(len(previous) + 4 + len(prefix)) >= tokens.max_positions // 4


def test_padding_and_truncation_of_a_training_are_no_part_of_texts(tmp_path: Path) -> None:
    """`save_pretrained` keeps them in tokenizer.json."""
    folder, tokenizer = write_small_folder(tmp_path), small_tokenizer()
    tokenizer.enable_padding(length=12, pad_id=SMALL.eot)
    tokenizer.enable_truncation(max_length=12)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = Tokens.load(folder)
    assert find_suppressed_ids(["a"], tokens) == find_suppressed_ids(["a"], SMALL)
    assert tokens.previous_text(Prompt("twenty letters of it", ())) == SMALL.previous_text(
        Prompt("twenty letters of it", ())
    )


def test_rules_come_from_the_config_only_without_a_generation_config(whisper_tiny_en: Path, tmp_path: Path) -> None:
    """A null `suppress_tokens` of a fine-tuned checkpoint suppresses nothing, whatever its old config lists."""
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_text((whisper_tiny_en / name).read_text())
    shutil.copyfile(whisper_tiny_en / "tokenizer.json", tmp_path / "tokenizer.json")
    _change(tmp_path / "config.json", suppress_tokens=[1, 2], begin_suppress_tokens=[3])
    _change(tmp_path / "generation_config.json", suppress_tokens=None)
    theirs: Any = GenerationConfig.from_pretrained(tmp_path)
    tokens = Tokens.load(tmp_path)
    assert theirs.suppress_tokens is None and tokens.suppress == ()
    assert tokens.begin_suppress == tuple(theirs.begin_suppress_tokens)

    (tmp_path / "generation_config.json").unlink()
    tokens = Tokens.load(tmp_path)
    assert (tokens.suppress, tokens.begin_suppress) == ((1, 2), (3,))


def _change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_languages_that_an_old_generation_config_lacks_come_from_the_tokenizer() -> None:
    assert SMALL.language_codes == ("en", "de")
    assert SMALL.tokenizer.id_to_token(SMALL.prompt("de")[1]) == "<|de|>"
    assert SMALL.no_speech == NUM_BYTES + 8


def test_another_model_s_tokenizer_is_refused(tmp_path: Path, whisper_tiny_en: Path) -> None:
    tokenizer = json.loads((whisper_tiny_en / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "config.json").write_text((whisper_tiny_en / "config.json").read_text())
    with pytest.raises(ValueError, match="not a Whisper tokenizer"):
        Tokens.load(tmp_path)
