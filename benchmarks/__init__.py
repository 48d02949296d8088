"""Real multi-task training with every method of mtl_optax.

Run ``python -m benchmarks --help``. What hangs on what, from the bottom up:

* `data`, `models`: what is trained on, and what is trained, each on its own;
* `problem`: what a suite hands over; `recipes`: how a method trains on it; `training`: one
  method, several trainings at once; `checkpoints`: those that are not finished;
* `cells`: finished (method, seed) pairs as JSON files; `experiment`: the protocol that makes them;
* `summary`, `report`, `pictures`: what is shown of finished cells;
* `suite`: the options of all suites, and how the parts above follow one another; `suites`: one
  small file each; `sweep`: a suite over one number;
* `toy`: a suite of its own kind, on two losses of two parameters;
* `papers`: what the papers report, to print beside ours;
* `peers`: the numbers of other libraries that the tests compare with.
"""
