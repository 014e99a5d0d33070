"""Processes of tests that have run nothing yet: forked from one that has imported all they need.

multiprocessing has one such server per process, with the modules that were named last: all tests name
them here.
"""

import multiprocessing as mp

FRESH = mp.get_context("forkserver")
FRESH.set_forkserver_preload(["support.imported"])
