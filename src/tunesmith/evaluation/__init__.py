"""Measuring: metrics, their uncertainty, and whether tuned beats base."""
