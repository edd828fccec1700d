"""`python app.py` opens the UI with the usual folders, `models` and `runs`; flags as for `erase ui`."""

import sys

from erase.cli import main

if __name__ == "__main__":
    sys.exit(main(["ui", *sys.argv[1:]]))
