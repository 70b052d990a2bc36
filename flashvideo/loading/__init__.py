"""Files become models."""
