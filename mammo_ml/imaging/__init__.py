"""From files to pixels and boxes: readers, breast mask, geometry, cuts, augmentation."""
