"""``python -m tunesmith.cli`` is ``tunesmith``."""

from tunesmith.cli import main

main()
