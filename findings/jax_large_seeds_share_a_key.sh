#!/usr/bin/env bash
# jax 0.10.2: seeds that differ by 2**32 give one key, although a key has room for both.
#
# Expected: random.key(1) and random.key(2**32 + 1) differ, since a key holds two words of 32 bits,
#     or the larger seed is refused.
# Seen: they are equal, and so are the keys of -1 and 2**32 - 1. With 64 bits enabled they differ.
#     Seeds that come from a hash or a clock in nanoseconds lose all but their last 32 bits.
#
#     32 bits: seed 1 [0, 1], seed 2**32 + 1 [0, 1]
#     64 bits: seed 1 [0, 1], seed 2**32 + 1 [1, 1]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax


def words(seed):
    return jax.random.key_data(jax.random.key(seed)).tolist()


found = {}
for bits, wide in ((32, False), (64, True)):
    with jax.enable_x64(wide):
        found[bits] = words(1), words(2**32 + 1)
    print(f"{bits} bits: seed 1 {found[bits][0]}, seed 2**32 + 1 {found[bits][1]}")
assert found[64][0] != found[64][1]
assert found[32][0] == found[32][1], "the keys differ now"
PYTHON
