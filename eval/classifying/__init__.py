"""Classification with the whole ViT: every weight of the encoder learns from the labels of one data set."""
