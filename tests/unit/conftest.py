"""The examples that property tests draw: the same in each run, so that what is red is red for everybody.

`HYPOTHESIS_PROFILE=hunt` draws others each time, ten times as many where a test does not say how many.
"""

import os

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, database=None)
settings.register_profile("hunt", max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
