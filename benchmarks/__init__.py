"""Real multi-task training with every method of mtl_optax.

Run ``python -m benchmarks --help``. What hangs on what, from the bottom up:

* `methods`, `errors`, `writing`, `command`, `protocol`: what commands need before they work.
  Modules that hold options stop here, and import what is slow where they use it;
* `data`, `models`: what is trained on, and what is trained, each on its own;
* `problem`: what a suite hands over, `problems`: several of these at length; `recipes`: how a
  method trains on it; `training`: one method, several trainings at once; `checkpoints`: those that
  are not finished;
* `cells`: finished (method, seed) pairs as JSON files; `experiment`: the protocol that makes them;
* `summary`, `report`, `pictures`: what is shown of finished cells; `reporting`: all on one page;
* `suite`: the options of all suites, and how the parts above follow one another; `suites`: one
  small file each; `sweeping`: a suite over one number;
* `toy`: a suite of its own kind, on two losses of two parameters; `speed`: time and memory;
  `compiling`: what comes before the first step;
* `papers`: what the papers report, to print beside ours;
* `peers`: the numbers of other libraries that the tests compare with;
* `listing`: what there is to run.
"""
