"""Procedural training texts: facts and questions, lookups, copies, repeats, books; every token with a loss weight."""
