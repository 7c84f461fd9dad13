"""Trackers, and the one-pass evaluation on GOT-10k that measures them."""
