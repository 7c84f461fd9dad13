"""Training on labels, and measuring image by image: killed anywhere and run again, both end with the same bytes."""
