"""`dr.score` counts as the job does."""

import pyarrow as pa
import pytest

import distil_ray as dr


def test_the_rates_are_those_of_the_job(job: dr.RunResult) -> None:
    rows = job.transcripts()
    rows = rows[rows["num_ref_words"].notna()]
    speakers = [{entry["key"]: entry["value"] for entry in cell}.get("speaker") for cell in rows["metadata"]]
    rates = dr.score(list(rows["text"]), list(rows["reference"]), list(rows["language"]), speakers=speakers)
    assert rates.wer == job.wer == job.summary["wer"]
    assert rates.interval == tuple(job.summary["wer_ci95"])
    assert rates.cer == job.summary["cer"]
    counts = (rates.substitutions, rates.deletions, rates.insertions, rates.num_ref_words)
    assert counts == tuple(job.summary[name] for name in ("substitutions", "deletions", "insertions", "num_ref_words"))
    assert list(rates.table["wer"]) == list(rows["wer"])


def test_groups_have_rates_of_their_own() -> None:
    hypotheses, references = ["good morning", "cards", "drei"], ["good evening", "cards", "drei vier"]
    rates = dr.score(hypotheses, references, ["en", "en", "de"], by=["a", "a", "b"])
    table = rates.table.set_index("group")
    assert list(table["wer"]) == [1 / 3, 1 / 2]
    assert list(table["num_pairs"]) == [2, 1]
    assert table["wer_low"].notna().to_list() == [True, False]
    assert (rates.substitutions, rates.deletions, rates.num_ref_words) == (1, 1, 5)
    assert "WER 40.00 %" in repr(rates)
    assert "S 1, D 1, I 0; 5 words" in repr(rates)


def test_characters_are_counted_where_words_are_not_separated() -> None:
    rates = dr.score(["今天天气好"], ["今天天氣好"], "Chinese", normalizer="none")
    assert (rates.wer, rates.num_ref_words, rates.interval) == (1 / 5, 5, None)


def test_references_without_words_have_no_rate() -> None:
    rates = dr.score(["hm"], [""])
    assert (rates.wer, rates.insertions) == (None, 1)
    assert repr(rates) == "ErrorRates(no words in 1 references)"
    assert dr.score([], []).wer is None


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_texts_of_failed_recordings_are_refused(missing: object) -> None:
    with pytest.raises(ValueError, match=r"hypotheses: must be texts, found (None|nan) at 1"):
        dr.score(["a", missing], ["a", "b"])  # type: ignore[list-item]


def test_missing_values_of_a_data_frame_are_none() -> None:
    labels: list[str | None] = ["x", None, None]
    table = pa.table({"label": labels, "language": pa.nulls(3, pa.string())}).to_pandas()
    texts = ["a b", "c", "d"], ["a c", "c", "e"]
    listed = dr.score(*texts, None, speakers=labels, by=labels)
    rates = dr.score(*texts, table["language"], speakers=table["label"], by=table["label"])
    assert rates.interval == listed.interval != dr.score(*texts, None, speakers=["x", "y", "y"]).interval
    assert list(rates.table["num_pairs"]) == list(listed.table["num_pairs"]) == [1, 2]


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="references: has 1 entries for 2 hypotheses"):
        dr.score(["a", "b"], ["a"])


def test_what_is_no_language_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'enlish' is not a language\. Did you mean en \(English\)\?"):
        dr.score(["a"], ["a"], "enlish")
    normalizers = {dr.score(["a"], ["a"], name).normalizer for name in ("kab", "unknown", None)}
    assert not any("english" in one for one in normalizers)
