"""Fixtures for every folder of tests."""

from tests.postgres import database_url, postgres, postgres_template

__all__ = ["database_url", "postgres", "postgres_template"]
