"""SeqTrack with any of our ViTs as its encoder: a box is read off an image as a sentence of four words."""
