"""Imported before anything else of the engine: what would be imported and is never used.

structlog imports rich, ten megabytes, to print tracebacks for a person at a terminal; an engine's log is lines of JSON.
"""

import sys

sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # as if it were not installed
