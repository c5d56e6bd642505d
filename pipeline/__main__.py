"""`python -m pipeline` is the `lakevec` command."""

import sys

from pipeline.cli import main

sys.exit(main())
