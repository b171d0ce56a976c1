"""Recordings that are removed from an output on request leave its data set, also the prompts of other examples."""

import pytest

from distil_ray.errors import ExitCode
from tests.forget.conftest import forget
from tests.pseudo_labels.conftest import Set

pytestmark = pytest.mark.usefixtures("inline")


def test_a_forgotten_recording_leaves_examples_rejected_rows_and_prompts(labels: Set) -> None:
    labels.transcribe(*range(12))
    labels.build("labels.packing=none")
    labels.transcribe(1, task=1, text=" Never to be read again.", reference="never to be read again")
    gone, rejected = labels.clips[0], labels.clips[4]
    labels.transcribe(4, fingerprint="f" * 16, chunks=[labels.chunk(0.0, 2.0, " Off.", avg_logprob=-9.0)], task=2)
    said = next(example for example in labels.examples() if example["id"] == gone["id"])["transcript"]
    prompts = [labels.tokens.decode(one["condition_on_prev"] or []) for one in labels.examples()]
    assert said in prompts

    code, words = forget(labels.output, f"recordings={gone['id']},{rejected['id']}", "output.max_deleted_fraction=1")

    assert code == ExitCode.DONE
    assert "rows of the data set" in words
    examples = labels.examples()
    names = [name for one in examples for name in one["utterance_ids"]] + [row["id"] for row in labels.rejected()]
    assert not {gone["id"], rejected["id"]} & set(names)
    assert said not in [labels.tokens.decode(one["condition_on_prev"] or []) for one in examples]
    others = [one for one in examples if one["speaker"] not in (gone["speaker"], rejected["speaker"])]
    assert any(one["condition_on_prev"] for one in others), "other speakers keep their prompts"


@pytest.mark.slow
def test_utterances_packed_with_a_forgotten_one_are_packed_again(labels: Set) -> None:
    labels.transcribe(*range(12))
    labels.build()
    gone = labels.clips[0]["id"]
    forget(labels.output, f"recordings={gone}")
    assert len(labels.utterances()) < 11
    labels.build()
    assert labels.utterances() == sorted(clip["id"] for clip in labels.clips[1:])


def test_prompts_lose_an_earlier_transcript_of_a_recording_that_is_rejected_now(labels: Set) -> None:
    labels.transcribe(*range(1, 12))
    labels.transcribe(0, task=1)
    labels.build("labels.packing=none")
    gone = labels.clips[0]
    said = next(example for example in labels.examples() if example["id"] == gone["id"])["transcript"]
    labels.transcribe(0, task=1, fingerprint="e" * 16, text=" Something else altogether.")
    labels.build("labels.packing=none")
    assert [row["id"] for row in labels.rejected()] == [gone["id"]]
    assert said in [labels.tokens.decode(one["condition_on_prev"] or []) for one in labels.examples()]

    forget(labels.output, f"recordings={gone['id']}")

    assert labels.rejected() == []
    assert said not in [labels.tokens.decode(one["condition_on_prev"] or []) for one in labels.examples()]


def test_a_recording_leaves_the_data_set_of_an_output_below_a_folder_named_rejected(labels: Set) -> None:
    labels.output = f"{labels.root}/rejected/output"
    labels.transcribe(*range(12))
    labels.build("labels.packing=none")

    code, _ = forget(labels.output, f"recordings={labels.clips[0]['id']}")

    assert code == ExitCode.DONE
    assert labels.utterances() == sorted(clip["id"] for clip in labels.clips[1:])
