"""`python -m logos_deploy` is the `logos` command."""

import sys

from logos_deploy.cli import main

sys.exit(main())
