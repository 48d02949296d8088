"""Real multi-task training with every method of mtl_optax.

Run ``python -m benchmarks --help``. A suite is data, a model, a loss and a protocol:

* `data`, `models`: what is trained on, and what is trained;
* `digits`: a suite, one small file;
* `toy`: a suite of its own kind, on the two losses of `landscape`, shown by `toy_report`;
* `training`: one method on one problem, several seeds at once, no files;
* `cells`: which (method, seed) cells are still to train, and their JSON files;
* `papers`: what papers report for the same methods;
* `report`, `pictures`: what is shown of finished cells;
* `suite`: the options that all suites have, and how the parts above follow one another.
"""
