import gc
import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

from tests.quick import refuse_more

# What it works out about the code is kept there. Else each interpreter that runs tests would work it out anew.
set_hypothesis_home_dir(Path(__file__).parents[1] / ".hypothesis")
# How long an example takes depends on the machine, and the first one pays for hypothesis's own tables.
settings.register_profile("suite", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Where tests run side by side, only the interpreters that run them: the first one starts those.
if os.environ.get("QUICK") == "1" and sys.argv[0].endswith("workertrial.py"):
    refuse_more()
    gc.set_threshold(50_000)  # what thousands of tests have loaded would be looked through again and again
