"""Random augmentation of training images and point clouds, for a whole batch at once and on its device."""
