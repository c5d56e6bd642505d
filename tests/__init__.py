"""The tests. Whoever starts them, a process of theirs computes with one thread, as Ray's workers do: how many there are
shows in the last bit of a sum, and threads that wait for each other on busy cores spin."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
