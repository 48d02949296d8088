"""Real multi-task training with every method of mtl_optax.

Run ``python -m benchmarks --help``. What hangs on what, from the bottom up:

* `methods`, `errors`, `writing`, `command`, `train.protocol`: what commands need before they work.
  Modules that hold options stop here, and import what is slow where they use it;
* `data`, `models`: what is trained on, and what is trained, each on its own;
* `train`: what a suite hands over (`problem`), how a method trains on it (`recipes`), several
  trainings at once (`training`), those that are not finished (`checkpoints`), and the protocol
  that makes cells of them (`experiment`);
* `results`: cells, which are finished (method, seed) pairs as JSON files, and figures of them;
* `show`: the table, pictures and the page of results, beside what the papers report;
* `suite`: the options of all suites, and how the parts above follow one another; `sweep`: a suite
  over one number;
* `suites`: one small file each; `problems`: their parts, where these are long or shared;
* `toy`: a suite of its own kind, on two losses of two parameters;
* `speed`: time and memory, beside other libraries; `speed.compiling`: what comes before the first
  step.
"""
