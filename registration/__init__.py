"""Make coarse 3-D labels from two annotated slices by registration, as CoGRNet does."""
