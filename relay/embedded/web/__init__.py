"""The pages of the embedded backend."""
