"""Documents in: load, chunk, embed, and publish an index directory."""
