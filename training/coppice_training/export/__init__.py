"""Exports to the Hugging Face layout, and reading text models back."""
