"""Training of an assistant (a small draft model) from an output and its audio.

`job.py` runs a training: it selects examples, starts the workers on the cluster, evaluates the student and decides
whether it replaces the assistant in use. `training_examples.py` and `label_set_examples.py` select what to learn,
`audio.py` fetches and decodes it, `teacher.py` computes encoder states and target distributions with the main model,
`dataset.py` stores them, `trainer.py` optimizes a `student_decoder.py`, `evaluation.py` measures it on held-out speech.
`worker.py` is one training process; only `ray_train.py` imports Ray. Nothing here knows how runs use an assistant.
Begin with `job.py`.
"""
