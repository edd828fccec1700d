"""`python -m erase` is the command `erase`."""

from __future__ import annotations

import sys

from erase.cli import main

sys.exit(main())
