"""A run from prompt to files: settings, seeds, records, both stages, jobs."""
