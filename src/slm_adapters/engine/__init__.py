"""A local model answering."""
