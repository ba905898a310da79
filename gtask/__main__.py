"""`python -m gtask`: the same as `gtask`."""

from __future__ import annotations

import sys

from gtask.cli import main

if __name__ == "__main__":
    sys.exit(main())
