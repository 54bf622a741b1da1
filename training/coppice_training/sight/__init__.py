"""Drawn images for the vision model: scenes, questions about them, training labels of their patches."""
