"""`python -m erase` is the command `erase`."""

from __future__ import annotations

import sys

from erase.interrupts import remember

remember()  # before what takes long to import

from erase.batch.leash import hold_on  # noqa: E402
from erase.cli import main  # noqa: E402

hold_on()
sys.exit(main())
