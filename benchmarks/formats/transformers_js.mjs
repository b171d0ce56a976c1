// Greedy tokens of transformers.js. Argument: the folder of the installed package. stdin: a JSON object, as tokens.py writes it.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.argv[2]}/package.json`);
const { AutoProcessor, WhisperForConditionalGeneration, env } = await import(
  pathToFileURL(require.resolve("@huggingface/transformers")).href
);
const job = JSON.parse(readFileSync(0, "utf-8"));
env.allowRemoteModels = false;
env.localModelPath = dirname(job.model);
const name = basename(job.model);
const session_options = { intraOpNumThreads: job.threads };
const model = await WhisperForConditionalGeneration.from_pretrained(name, { dtype: job.dtype, session_options });
const processor = await AutoProcessor.from_pretrained(name);

const found = [];
for (const path of job.paths) {
  const bytes = readFileSync(path);
  const samples = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const { input_features } = await processor(samples);
  const told = job.language ? { language: job.language, task: "transcribe" } : {};
  const ids = await model.generate({ input_features, max_new_tokens: job.max_tokens, ...told });
  found.push(ids[0].tolist().map(Number));
}
writeFileSync(job.result, JSON.stringify(found));
