"""``python -m awac_pl`` is ``awac``."""

import sys

from awac_pl.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
