"""Runs: recipes executed into adapters, recorded before they start, true whatever is killed."""
