"""python -m foveal"""

import sys

from foveal.cli import entry

sys.exit(entry())
