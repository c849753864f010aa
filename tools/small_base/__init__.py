"""How the shipped base model ``tunesmith-small`` and its sample dataset are made."""
