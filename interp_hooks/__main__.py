"""`python -m interp_hooks` is the command `interp-hooks`."""

import sys

from interp_hooks.cli import main

if __name__ == "__main__":
    sys.exit(main())
