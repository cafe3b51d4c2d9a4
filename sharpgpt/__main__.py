"""`python -m sharpgpt`."""

import sys

from sharpgpt.commands.main import main

sys.exit(main())
