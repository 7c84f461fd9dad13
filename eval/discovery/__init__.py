"""Objects found in single photos without any label: by an encoder's keys, and by its attention."""
