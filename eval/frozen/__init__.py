"""Features of a backbone that is not trained any further: computed once, kept on disk, read by every benchmark."""
