"""What every capability stands on: failures, time, files, the database. Knows nothing of models or HTTP."""
