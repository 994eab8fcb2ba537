"""A call at rest."""
