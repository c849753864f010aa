"""The document ``finetune-providers``: providers, datasets, jobs, projects, splits."""
