"""Masks carried through videos: DAVIS' folders, and one sequence from frames to results."""
