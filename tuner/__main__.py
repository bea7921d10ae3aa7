"""``python -m tuner`` is the ``autochunk`` command."""

import sys

from tuner.cli import main

if __name__ == "__main__":
    sys.exit(main())
