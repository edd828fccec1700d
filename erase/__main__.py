"""`python -m erase` is the command `erase`."""

from __future__ import annotations

import sys

from erase.batch.leash import hold_on
from erase.cli import main

hold_on()
sys.exit(main())
