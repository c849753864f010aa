"""One package a document: ``wire.py`` knows its shapes, ``routes.py`` its paths; neither knows another dialect."""
