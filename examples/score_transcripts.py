"""Transcribes recordings with references and prints the word error rate of each speaker.

python examples/score_transcripts.py manifest.jsonl --model openai/whisper-large-v3
"""

import argparse
from pathlib import Path

import distil_ray as dr

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", default=DATA / "manifest.jsonl", help="a manifest with references")
    parser.add_argument("--model", default="packaged:whisper-tiny.en")
    arguments = parser.parse_args()

    table = dr.transcribe(arguments.input, model=arguments.model)
    scored = table[table["reference"].notna() & (table["status"] != "failed")]
    metadata = [{entry["key"]: entry["value"] for entry in cell} for cell in scored["metadata"]]
    speakers = [entries.get("speaker", "unknown") for entries in metadata]

    rates = dr.score(
        list(scored["text"]), list(scored["reference"]), list(scored["language"]), by=speakers, speakers=speakers
    )
    print(rates.table[["group", "num_pairs", "num_ref_words", "wer"]].to_string(index=False))
    print(rates)


if __name__ == "__main__":
    main()
