"""`python -m sharpgpt`."""

import sys

from sharpgpt.cli import main

sys.exit(main())
