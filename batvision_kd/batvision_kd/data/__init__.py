"""BatVision V1 and V2 as they lie on disk: tables, loader, augmentation, splits, cache, and the check of a root."""
