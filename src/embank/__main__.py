"""`python -m embank` is the command `embank`."""

import sys

from embank.cli import main

sys.exit(main())
