"""The examples that property tests draw: the same in each run, so that what is red is red for everybody.

`HYPOTHESIS_PROFILE=hunt` draws others each time, ten times as many where a test does not say how many. No example has a
deadline: timings never gate a test, and a machine may stop for longer than any of them.
"""

import os

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
settings.register_profile("hunt", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
